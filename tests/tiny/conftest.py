"""A Stable Diffusion pipeline of the real classes, at a size that takes no time."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from t2i_lens.inversion.embeddings import Concept

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = "photo man friend toy red blue chair cat dog frog next with the a to on of and good".split()
WIDTH = 32


def _vocabulary():
    """Bytes, bytes that end a word, merges, BOS, EOS: the order of CLIP's own vocabulary.

    Each word is merged from left to right, long words first so that a short one's merges do
    not break them. A learned vocabulary would settle ties differently at every call.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = {}
    for word in sorted(WORDS, key=len, reverse=True):
        piece = word[0]
        for place, letter in enumerate(word[1:], start=2):
            letter += "</w>" * (place == len(word))
            merges[piece, letter] = piece = piece + letter
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *merges.values(), BOS, EOS]
    return {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}, list(merges)


def tiny_tokenizer():
    vocabulary, merges = _vocabulary()
    special = {"unk_token": EOS, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, **special)
    assert len(tokenizer.tokenize(" ".join(WORDS))) == len(WORDS)
    return tokenizer


def tiny_pipeline(autoencoder="tiny", prediction_type="epsilon"):
    """Random weights, the same at every call; 16×16 pictures, 8×8 latents."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    if autoencoder == "tiny":
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            scaling_factor=0.7,
        )
    else:
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory):
    """Folder of the pipeline in diffusers' layout. Read-only: copy it before damaging it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_pipe():
    """One pipeline for tests that change nothing in it."""
    return tiny_pipeline()


@pytest.fixture
def pipe():
    """A pipeline of the test's own."""
    return tiny_pipeline()


@pytest.fixture(scope="session")
def make_pipe():
    """Builder of pipelines of another kind."""
    return tiny_pipeline


@pytest.fixture(scope="session")
def make_concept():
    """Builder of concepts whose pictures are noise."""
    return tiny_concept


def tiny_concept(name, placeholder=None, initializer="toy", pictures=3):
    rng = np.random.default_rng(sum(name.encode()))
    images = rng.integers(0, 256, (pictures, 16, 16, 3), dtype=np.uint8)
    return Concept(name, placeholder or f"<{name}>", initializer, "toy", images)
