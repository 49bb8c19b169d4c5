"""How alike are a drawn picture and a concept's training pictures? CLIP's image score, small.

The eye is the picture tower that the toybox's text encoder was trained against; it took no part
in training the U-Net, the judge or any concept.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import normalize

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.nets.networks import PICTURE_WIDTH, TEXT_WIDTH, PictureTower

FOLDER = DATA / "models" / "picture_tower"
WEIGHTS = "picture_tower.safetensors"


@runtime_checkable
class Eye(Protocol):
    """Anything that sees pictures as unit vectors."""

    def embed(
        self, pictures: UInt8[np.ndarray, "picture height width 3"]
    ) -> Float[np.ndarray, "picture feature"]: ...


class PictureEye:
    """The eye of the toybox's pictures."""

    def __init__(self, tower: nn.Module, projection: nn.Module):
        self._tower, self._projection = tower.eval(), projection.eval()

    @torch.no_grad()
    def embed(
        self, pictures: UInt8[np.ndarray, "picture height width 3"], batch_size: int = 128
    ) -> Float[np.ndarray, "picture feature"]:
        """Unit vectors of pictures of 64x64."""
        parts = [
            self._projection(
                self._tower(torch.from_numpy(pictures[start : start + batch_size])).mean(1)
            )
            for start in range(0, len(pictures), batch_size)
        ]
        return normalize(torch.cat(parts).float(), dim=-1).numpy()


def load_eye(folder: Path = FOLDER) -> PictureEye:
    """The shipped picture tower.

    Raises: FileNotFoundError: no weights there.
    """
    file = Path(folder) / WEIGHTS
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; restore it or train the toybox")
    weights = {name: value.float() for name, value in load_file(file).items()}
    parts = {
        "pictures": PictureTower(),
        "picture_projection": nn.Linear(PICTURE_WIDTH, TEXT_WIDTH, bias=False),
    }
    for prefix, part in parts.items():
        part.load_state_dict(
            {
                n.removeprefix(f"{prefix}."): v
                for n, v in weights.items()
                if n.startswith(prefix + ".")
            }
        )
    return PictureEye(*parts.values())


def likeness(
    eye: Eye,
    pictures: UInt8[np.ndarray, "*axes height width 3"],
    references: UInt8[np.ndarray, "reference height width 3"],
) -> dict[str, np.ndarray]:
    """Mean cosine between each picture and all training pictures of a concept.

    Args: pictures: With any axes before height.
    Returns: `likeness` with these axes, each in [-1, 1].
    """
    vectors = eye.embed(np.ascontiguousarray(pictures.reshape(-1, *pictures.shape[-3:])))
    cosines = vectors @ eye.embed(references).T
    return {"likeness": cosines.mean(1).reshape(pictures.shape[:-3])}
