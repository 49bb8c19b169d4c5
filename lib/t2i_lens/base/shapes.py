"""Names of array axes, as jaxtyping aliases.

The axis words are `batch step layer head query key pixel token height width d_model`; `vector`
counts the rows of one placeholder, `seed` and `prompt` the images of a grid. Latents have their own
height and width, `vae_scale_factor` times smaller than the picture's.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# Pictures: bytes 0..255, channels last, RGB.
Images = UInt8[np.ndarray, "batch height width 3"]
ImageGrid = UInt8[np.ndarray, "prompt seed height width 3"]

# What the U-Net reads and predicts: about unit variance, after the VAE's scaling factor.
Latents = Float[Tensor, "batch channel latent_height latent_width"]

# Output of the text encoder after its final norm: the U-Net's `encoder_hidden_states`.
TextStates = Float[Tensor, "prompt token d_model"]

# SDXL's summary of a prompt: the second text encoder's state at EOS, projected.
Pooled = Float[Tensor, "prompt d_pooled"]

# Ids fed to the text encoder: BOS, content, EOS, padding; 77 tokens for CLIP.
TokenIds = Int[Tensor, "batch token"]

# Rows of the input embedding table that belong to one placeholder.
EmbeddingRows = Float[Tensor, "vector d_model"]

# Text self-attention after softmax; rows sum to 1 over keys and are 0 after the query.
TextPattern = Float[Tensor, "batch layer head query key"]

# Cross-attention of one layer; axes that were reduced have length 1. Probabilities over
# tokens, summed over steps where steps were not kept apart.
CrossAttentionMap = Float[Tensor, "sample branch step head height width token"]

# Cross-attention reduced over layers and resized, one map per token.
HeatMaps = Float[Tensor, "sample token height width"]

# The same where there are several text encoders, each with a width of its own.
TowerRows = Float[Tensor, "vector _"]
