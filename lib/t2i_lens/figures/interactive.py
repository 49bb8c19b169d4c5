"""Interactive figures of the book: pictures and maps in one sprite atlas, with their labels.

A notebook shows one beside the still figure that carries the claim. Jupyter and Colab show a line
of text in its place; the book draws it with its own script, from data that the page holds.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MIME = "application/vnd.t2i-lens.interactive+json"
LARGEST = 150_000  # bytes of an atlas, so that a page with its labels stays below 300 kB
WIDEST = 128  # pixels of a picture in an atlas; larger ones are reduced
QUALITIES = (88, 70, 50, 30)  # of the compressed pictures; the first that fits is taken
FLOOR = 5e-3  # share of attention that the darkest place of a map stands for


@dataclass(frozen=True)
class Interactive:
    """An interactive figure as data; displayed by the book's own script.

    Attributes:
        about: Kind, label and everything that the script needs.
    """

    about: dict[str, Any]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: self.about, "text/plain": f"(interactive in the book: {self.about['label']})"}


def picture_series(
    pictures: UInt8[np.ndarray, "row place height width 3"],
    rows: Sequence[str],
    places: Sequence[str],
    quantity: str,
    label: str,
) -> Interactive:
    """Pictures along one quantity, such as the length of a row; a slider moves through them.

    Args:
        pictures: Bytes; the pictures of a row start from the same latents.
        rows: Labels of the rows, such as arms.
        places: Values of the quantity, as texts.
        quantity: Name of the slider.
        label: Of the figure, for readers who do not see it.

    Raises:
        ValueError: there are so many pictures that a page would be too heavy.

    Shown in: notebooks/05_norm_scale.ipynb
    """
    atlas, size = _atlas(pictures)
    return Interactive(
        {
            "kind": "series", "label": label, "quantity": quantity,
            "rows": list(rows), "places": list(places), "size": size, "atlas": atlas,
        }
    )  # fmt: skip


def word_maps(
    pictures: UInt8[np.ndarray, "arm height width 3"],
    maps: Float[np.ndarray, "arm step token map_size map_size"],
    pieces: Sequence[Sequence[str]] | np.ndarray,
    arms: Sequence[str],
    steps: Sequence[int],
    total: int,
    label: str,
) -> Interactive:
    """Maps of each word over the picture, step by step, the arms side by side.

    Args:
        pictures: One an arm.
        maps: Share of attention that a place pays to a token in a step, 0 to 1.
        pieces: Tokens, [arm][token].
        arms: Labels.
        steps: Numbers of the steps, from 1.
        total: Number of steps that the pictures were drawn with.
        label: Of the figure, for readers who do not see it.

    Raises:
        ValueError: there are so many maps that a page would be too heavy.

    Shown in: notebooks/04_attention_dominance.ipynb
    """
    level = 1 - np.log(np.clip(maps, FLOOR, 1)) / np.log(FLOOR)
    grey = np.round(255 * level).astype(np.uint8)
    atlas, size = _atlas(pictures[:, None])
    return Interactive(
        {
            "kind": "maps", "label": label, "arms": list(arms), "floor": FLOOR,
            "pieces": [[str(piece) for piece in row] for row in pieces],
            "steps": list(steps), "total": total,
            "shares": np.round(maps.mean((-2, -1)), 4).tolist(), "size": size, "pictures": atlas,
            "mapSize": maps.shape[-1], "maps": _encoded(_tiled(np.concatenate(grey)), "png"),
        }
    )  # fmt: skip


def _atlas(pictures: np.ndarray) -> tuple[str, list[int]]:
    """All pictures side by side, and the height and width of one of them there."""
    rows, columns, height, width = pictures.shape[:4]
    shrink = max(1, -(-max(height, width) // WIDEST))
    size = [height // shrink, width // shrink]
    picture = Image.fromarray(_tiled(pictures)).resize((columns * size[1], rows * size[0]))
    for quality in QUALITIES:
        encoded = _encoded(np.asarray(picture), "webp", quality=quality, method=6)
        if len(encoded) <= LARGEST:
            return encoded, size
    raise ValueError(f"{rows * columns} pictures are too heavy for a page: show fewer")


def _tiled(tiles: np.ndarray) -> np.ndarray:
    """One picture of all tiles, [row, column, height, width, ...]."""
    rows, columns, height, width, *colours = tiles.shape
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width, *colours)


def _encoded(atlas: np.ndarray, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(atlas).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
