"""Remedies for a trained token that need no retraining: other rows, and other keys or layers.

A remedy is a row for the slot, or edits of the text states that the U-Net reads, or both. The class
word stands in the slot and its row is replaced, so that no token has to be attached.

Sources: rescaling to an ordinary norm (Isozaki 2024; Directional TI, arXiv 2512.13672); test-time
adjustment (TEA, arXiv 2506.22685); key lock of a trained token (after Tewel et al., 2305.01644);
layers (after Staniszewski et al., 2502.09935).

Shown in: notebooks/23_remedies.ipynb
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from t2i_lens.base.files import write
from t2i_lens.models.tokens import encode
from t2i_lens.probes.edits import Edit, Inject, Swap, Value
from t2i_lens.probes.sampling import text_states

ROTATION, LENGTH = 0.2, 1.5  # TEA's published α and β
Row = Float[Tensor, " d_model"]


@dataclass(frozen=True, eq=False)
class Remedy:
    """What is done with a trained token.

    Attributes:
        name: Of the remedy.
        row: What stands in the slot.
        keys: Whose keys: the token's own; those of another word at the slot ("local"), or those
            of the whole prompt with that word ("global").
        other: That word; also what the layers read that do not get the token.
        layers: Paths of the cross-attention layers that read the token; all if None.
    """

    name: str
    row: Row
    keys: Literal["own", "local", "global"] = "own"
    other: str = ""
    layers: tuple[str, ...] | None = None

    @property
    def is_embedding(self) -> bool:
        """Whether the row says it all, so that any tool can use it."""
        return self.keys == "own" and self.layers is None


def rows(row: Row, class_row: Row, longest: float) -> dict[str, Row]:
    """Remedies that are rows.

    Args:
        row: Of the trained token.
        class_row: Of its class word.
        longest: Norm that is not to be exceeded, such as that of the vocabulary's longest row.
    """
    usual = class_row.norm()
    unit, goal = functional.normalize(row, dim=0), functional.normalize(class_row, dim=0)
    angle = torch.arccos((unit @ goal).clamp(-1, 1))
    if angle.sin() < 1e-5:
        turned = unit
    else:
        parts = torch.sin((1 - ROTATION) * angle) * unit + torch.sin(ROTATION * angle) * goal
        turned = parts / angle.sin()
    return {
        "clipped": row * min(1.0, longest / float(row.norm())),
        "rescaled": unit * usual,
        "turned and rescaled": turned * LENGTH * usual,
    }


def remedies(
    row: Row, class_row: Row, class_word: str, longest: float,
    *, noun: str = "", layers: Mapping[str, Sequence[str]] | None = None,
) -> list[Remedy]:  # fmt: skip
    """All remedies of a trained token, the token as it is among them.

    Args:
        row, class_row, longest: As in `rows`.
        noun: An unrelated one, whose keys are the control of the key lock.
        layers: Name -> layers that read the token while all others read the class word.
    """
    found = [Remedy("token", row)]
    found += [Remedy(name, each) for name, each in rows(row, class_row, longest).items()]
    found += [
        Remedy("key lock, local", row, "local", class_word),
        Remedy("key lock, global", row, "global", class_word),
    ]
    if noun:
        found.append(Remedy("key lock, other noun", row, "local", noun))
    found += [
        Remedy(name, row, other=class_word, layers=tuple(some))
        for name, some in (layers or {}).items()
    ]
    return found


def prepared(
    pipe, remedy: Remedy, class_word: str, texts: Sequence[str], all_layers: Sequence[str] = ()
) -> tuple[list[str], list[list[Edit]]]:
    """Sentences with the class word in the slot, and the edits that make the remedy of them.

    Args:
        texts: Each with a slot `{}`.
        all_layers: Paths of the model's cross-attention layers, for a remedy that names layers.
    """
    sentences = [text.replace("{}", class_word) for text in texts]
    slots = [encode(pipe, sentence).positions(class_word) for sentence in sentences]
    edits: list[list[Edit]] = [
        [Swap(Value(remedy.name, remedy.row), positions=slot)] for slot in slots
    ]
    if remedy.is_embedding:
        return sentences, edits
    states = text_states(pipe, [text.replace("{}", remedy.other) for text in texts])
    for each, own, slot in zip(edits, states, slots, strict=True):
        value = Value(remedy.other, own)
        if remedy.keys != "own":
            positions = slot if remedy.keys == "local" else None
            each.append(Inject(value, into=("key",), positions=positions))
        if remedy.layers is not None:
            rest = tuple(path for path in all_layers if path not in remedy.layers)
            each.append(Inject(value, layers=rest))
    return sentences, edits


def save(remedy: Remedy, placeholder_token: str, file: Path) -> Path:
    """Write a remedy's row as a file that diffusers loads, and what else it is in the metadata.

    Raises:
        ValueError: it gives the token to some layers only, which no file says.
    """
    if remedy.layers is not None:
        raise ValueError(f"{remedy.name!r} names layers of one model: it is not saved")
    metadata = {"format": "pt", "remedy": remedy.name, "keys": remedy.keys, "other": remedy.other}
    rows = {placeholder_token: remedy.row[None].detach().cpu().contiguous()}
    write(file, safetensors.torch.save(rows, metadata=metadata))
    return file


def load(file: Path) -> Remedy:
    """Read what `save` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            (name,) = opened.keys()
            row = opened.get_tensor(name)[0]
        return Remedy(about["remedy"], row, about["keys"], about["other"])
    except (SafetensorError, ValueError, KeyError):
        raise ValueError(f"{file} holds no remedy: make one with `t2i-lens clinic`") from None
