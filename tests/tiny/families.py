"""Pipelines of the other families' real classes, at a size that takes no time."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def text_config(tokenizer, width, **other):
    options = dict(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextConfig(**options | other)


def tiny_sd2(make_pipe):
    """As SD 2.1: v-prediction, OpenCLIP's activation, padding with "!", linear projections."""
    plain = make_pipe("kl", prediction_type="v_prediction")
    torch.manual_seed(1)
    tokenizer = plain.tokenizer
    tokenizer.pad_token = "!"
    unet = UNet2DConditionModel.from_config(
        {**plain.unet.config, "attention_head_dim": [2, 4], "use_linear_projection": True}
    )
    encoder = CLIPTextModel(text_config(tokenizer, 32, hidden_act="gelu"))
    pipe = StableDiffusionPipeline(
        vae=plain.vae, text_encoder=encoder.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=plain.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl(make_pipe, eos_token_id=2):
    """As SDXL: two encoders, of which the second pools, with SDXL's `eos_token_id` of 2."""
    one, two = make_pipe("kl"), make_pipe("kl").tokenizer
    two.pad_token = "!"
    torch.manual_seed(2)
    second = CLIPTextModelWithProjection(
        text_config(two, 48, eos_token_id=eos_token_id, hidden_act="gelu")
    )
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        cross_attention_dim=32 + 48, attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=one.vae, text_encoder=one.text_encoder, text_encoder_2=second.eval(),
        tokenizer=one.tokenizer, tokenizer_2=two, unet=unet.eval(), scheduler=one.scheduler,
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd3(make_pipe):
    """As SD3 without its T5 encoder, which may be left out."""
    one, two = make_pipe("kl").tokenizer, make_pipe("kl").tokenizer
    torch.manual_seed(3)
    encoders = [CLIPTextModelWithProjection(text_config(t, 32)).eval() for t in (one, two)]
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        sample_size=16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=64,
        caption_projection_dim=32, pooled_projection_dim=64, pos_embed_max_size=8,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=encoders[0], tokenizer=one, text_encoder_2=encoders[1], tokenizer_2=two,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


FAMILIES = {"sd21": tiny_sd2, "sdxl": tiny_sdxl, "sd3": tiny_sd3}
