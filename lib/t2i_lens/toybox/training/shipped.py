"""The shipped weights as a start for more training: ``train --from-shipped``.

A training that ends with the machine it ran on goes on from what it shipped. The world may have
grown meanwhile, so rows of tokens and of the judge's classes are matched by name.

Shown in: book/toybox.md
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from t2i_lens.base.paths import DATA

MODELS = DATA / "models"
TOKENS = "text.embeddings.token_embedding.weight"


def shipped_weights(stage: str, names: tuple[list[str], ...] | CLIPTokenizer | None = None) -> dict:
    """State of a stage's network in fp32.

    Args:
        stage: A stage of ``train``.
        names: What rows mean now: the tokenizer for ``text_encoder``, the judge's nouns for
            ``judge``, nothing for the others.
    Raises:
        FileNotFoundError: nothing is shipped.
    """
    if stage == "autoencoder":
        return _load(MODELS / "toybox" / "vae" / "diffusion_pytorch_model.safetensors")
    if stage == "unet":
        return _load(MODELS / "toybox" / "unet" / "diffusion_pytorch_model.safetensors")
    if stage == "judge":
        state = _load(MODELS / "judge" / "judge.safetensors")
        old_names = json.loads((MODELS / "judge" / "labels.json").read_text())
        unnamed = {"nouns": ["<sign>", "<other>", "<nothing>"], "colours": ["<natural>"],
                "styles": [], "words": ["<none>"]}  # fmt: skip
        for axis, new_names in zip(unnamed, names, strict=True):
            for part in (f"{axis}.weight", f"{axis}.bias"):
                if part in state:
                    lists = ([*listed, *unnamed[axis]] for listed in (old_names[axis], new_names))
                    state[part] = _matched(state[part], *lists)
        return state
    state = _load(MODELS / "picture_tower" / "picture_tower.safetensors")
    text = _load(MODELS / "toybox" / "text_encoder" / "model.safetensors")
    state |= {f"text.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    old_tokenizer = CLIPTokenizer.from_pretrained(MODELS / "toybox" / "tokenizer")
    state[TOKENS] = _tokens_matched(state[TOKENS], old_tokenizer, names)
    return state


def _load(file: Path) -> dict[str, torch.Tensor]:
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; train without --from-shipped")
    return {name: value.float() for name, value in load_file(file).items()}


def _matched(rows: torch.Tensor, old_names: list[str], new_names: list[str]) -> torch.Tensor:
    """Rows by name; a new name starts at zero."""
    row_of = {name: row for row, name in enumerate(old_names)}
    start = torch.zeros_like(rows[0])
    return torch.stack([rows[row_of[name]] if name in row_of else start for name in new_names])


def _tokens_matched(table: torch.Tensor, old: CLIPTokenizer, new: CLIPTokenizer) -> torch.Tensor:
    """Rows by token; a new token starts at the mean of the old tokens that spelled it."""
    vocabulary = old.get_vocab()

    def start(token: str) -> torch.Tensor:
        if token in vocabulary:
            return table[vocabulary[token]]
        pieces = old(token.removesuffix("</w>"), add_special_tokens=False).input_ids
        return table[pieces].mean(0)

    return torch.stack([start(token) for token in new.convert_ids_to_tokens(range(len(new)))])
