"""The toybox with joint attention: Stable Diffusion 3's own classes, but small.

Shown in: book/toybox.md
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from t2i_lens.toybox.nets.networks import TEXT_WIDTH
from t2i_lens.toybox.nets.pair import ContrastivePair

CAPTION_TOKENS = 32  # the longest caption has 28; joint attention pays for every token in full
WIDTH, HEADS, BLOCKS = 128, 4, 6
BLANK_WIDTH = 8
STATES_SCALE = 6.0  # standard deviation of the states before the encoder's last layer


def build_transformer() -> SD3Transformer2DModel:
    """Six joint blocks over 64 picture tokens (patches of 2x2 latents) and 32 text tokens.

    Queries and keys are normalised, as in SD3.5. Each block starts as the identity, and the whole
    network at velocity zero (Peebles & Xie 2023, "adaLN-Zero").
    """
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=BLOCKS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH + BLANK_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=TEXT_WIDTH + BLANK_WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    modulations = [block.norm1.linear for block in model.transformer_blocks]
    modulations += [block.norm1_context.linear for block in model.transformer_blocks]
    for layer in (*modulations, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    model.context_embedder.weight.data.div_(STATES_SCALE)
    return model


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths from noise to latents, steps of equal length."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def projected_encoder(pair: ContrastivePair) -> CLIPTextModelWithProjection:
    """The toybox's text encoder with the projection that it was trained with."""
    encoder = CLIPTextModelWithProjection(pair.text.config)
    encoder.text_model.load_state_dict(pair.text.state_dict())
    encoder.text_projection.load_state_dict(pair.text_projection.state_dict())
    return encoder.eval()


def blank_encoder(vocabulary: int) -> CLIPTextModelWithProjection:
    """SD3's class asks for a second encoder: this one says zero, whatever the prompt."""
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=BLANK_WIDTH,
            intermediate_size=BLANK_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=CAPTION_TOKENS,
            projection_dim=BLANK_WIDTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    for weight in encoder.parameters():
        nn.init.zeros_(weight)
    return encoder.eval()


@torch.no_grad()
def text_conditions(
    encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, captions: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What SD3's pipeline hands to its transformer, without T5.

    Returns: States after the last layer but one `[caption, CAPTION_TOKENS, TEXT_WIDTH +
        BLANK_WIDTH]`, and projected states at EOS `[caption, TEXT_WIDTH + BLANK_WIDTH]`; the
        blank encoder's share is zero.
    """
    ids = tokenizer(
        captions,
        padding="max_length",
        max_length=CAPTION_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    output = encoder(ids.to(encoder.device), output_hidden_states=True)
    states, pooled = output.hidden_states[-2], output.text_embeds
    return tuple(nn.functional.pad(part, (0, BLANK_WIDTH)) for part in (states, pooled))
