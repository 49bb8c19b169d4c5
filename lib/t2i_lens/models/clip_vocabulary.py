"""The vocabulary of OpenAI's CLIP, which all its text encoders share, read without a model."""

import gzip

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA

MERGES = DATA / "vocabulary" / "clip_merges.txt.gz"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77  # positions


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer of CLIP's 49,408 tokens of one's own.

    Raises:
        FileNotFoundError: the list of merges is missing.
    """
    if not MERGES.exists():
        raise FileNotFoundError(f"{MERGES} is missing: restore it")
    lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    merges = [tuple(line.split()) for line in lines]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges), BOS, EOS]
    return CLIPTokenizer(
        vocab={piece: row for row, piece in enumerate(pieces)}, merges=merges,
        unk_token=EOS, bos_token=BOS, eos_token=EOS, pad_token=EOS, model_max_length=CONTEXT,
    )  # fmt: skip
