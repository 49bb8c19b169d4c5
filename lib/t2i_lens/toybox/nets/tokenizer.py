"""The toybox's own BPE vocabulary, in CLIP's file format.

Row order is CLIP's: 256 bytes, 256 bytes that end a word, the merges, BOS, EOS.

Shown in: book/toybox.md
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import (
    DETERMINERS,
    FILLERS,
    FRAMES,
    STYLE_FRAME,
    caption,
)
from t2i_lens.toybox.world.scenes import sample_scene

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77  # positions, as in CLIP


def corpus(captions: int = 4000, seed: int = 0) -> list[str]:
    """Sentences that hold every word of the world, filler words and wide nouns included."""
    rng = np.random.default_rng(seed)
    words = world_words()
    kinds = ("wide_nouns", "nouns", "styles", "colours", "words")
    lists = [list(words[kind]) for kind in kinds]
    other_words = " ".join([*FRAMES, STYLE_FRAME, *FILLERS, *DETERMINERS]).replace("{}", "")
    sentences = [caption(sample_scene(rng), rng) for _ in range(captions)]
    # Each word often enough that its merges are learned to the end: one word, one token.
    return sentences + [" ".join(words) for words in lists] * 20 + [other_words] * 20


def build(folder: Path, sentences: Sequence[str] | None = None) -> CLIPTokenizer:
    """Learn the merges and write ``vocab.json``, ``merges.txt`` and the configuration to folder.

    Args: sentences: What to learn from; the world's `corpus` by default.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=2,
        initial_alphabet=alphabet,
        show_progress=False,
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(corpus() if sentences is None else sentences, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = alphabet + [byte + "</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {piece: row for row, piece in enumerate(dict.fromkeys([*pieces, BOS, EOS]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    # From the two files, so that what is saved is what any reader of CLIP's format gets.
    fast = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        unk_token=EOS,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
    )
    fast.save_pretrained(folder)
    return fast
