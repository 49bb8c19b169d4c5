"""The toybox's networks, all of them the real classes of diffusers and transformers, but small.

Shown in: book/toybox.md
"""

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

TEXT_WIDTH = 128
PICTURE_WIDTH = 128


def build_text_encoder(vocabulary: int, layers: int = 6) -> CLIPTextModel:
    """CLIP's text tower: causal, pre-norm, quick GELU; BOS and EOS are the two last ids."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=TEXT_WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(self.norm(x)))))


class PictureTower(nn.Module):
    """Pictures uint8 ``[batch, 64, 64, 3]`` to features ``[batch, token=64, width]``.

    A small convolutional stem down to 8x8 places, then two transformer layers so that a place can
    know about the others. It is the vision side of the contrastive training and the judge's trunk.
    """

    def __init__(self, width: int = PICTURE_WIDTH, layers: int = 2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), _Residual(64),
            nn.Conv2d(64, width, 3, stride=2, padding=1), _Residual(width),
        )  # fmt: skip
        self.place = nn.Parameter(torch.randn(64, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                4,
                2 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x = x.flatten(2).transpose(1, 2) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def build_autoencoder() -> AutoencoderTiny:
    """f4, 4 latent channels, no norm layers: flat colours come out right."""
    model = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=4,
    )
    # Without norm layers the default initialisation lets the signal fade with depth.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, AutoencoderTinyBlock):
            module.conv[-1].weight.data.mul_(0.2)  # residual branches start small
    model.encoder.layers[-1].weight.data.mul_(0.3)
    model.decoder.layers[-1].weight.data.mul_(0.05)
    return model


def build_unet(channels: tuple[int, ...] = (64, 128, 192), layers: int = 1) -> UNet2DConditionModel:
    """SD's U-Net with cross-attention at 16x16, 8x8 and in the 4x4 middle."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=layers,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # diffusers reads this as the number of heads, as in SD 1.x
        norm_num_groups=32,
    )
    unet.set_attn_processor(AttnProcessor())  # faster than CPU flash attention in the backward pass
    return unet


def build_scheduler() -> DDIMScheduler:
    """SD's scaled-linear noise schedule, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
