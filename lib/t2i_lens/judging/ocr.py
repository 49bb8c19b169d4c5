"""Reading of text in pictures by an OCR engine that was not trained on this project's pictures."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

SIDE = 512  # pixels of the enlarged picture's longer side; letters of 8 pixels are not found
MARGIN = 1  # pixels around a detected box that still belong to the text


@dataclass(frozen=True)
class OcrReading:
    """Text and boxes that the engine finds in one picture.

    Attributes:
        lines: The texts of its detections, lower case, in the engine's order. The engine also
            knows Chinese and sees signs of it in drawings; only ASCII is kept.
        region: Pixels inside the boxes of its detections.
    """

    lines: tuple[str, ...]
    region: Bool[np.ndarray, "height width"]


@cache
def _engine():
    from rapidocr_onnxruntime import RapidOCR  # loads three networks

    return RapidOCR()


def read_text(picture: UInt8[np.ndarray, "height width 3"]) -> OcrReading:
    """Detections of RapidOCR (PP-OCR's DB detector and recogniser) in the enlarged picture."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    large = Image.fromarray(picture).resize(
        (round(width * scale), round(height * scale)), Image.BICUBIC
    )
    detections, _ = _engine()(np.asarray(large)[..., ::-1])
    region = np.zeros((height, width), dtype=bool)
    for corners, _, _ in detections or []:
        x0, y0 = np.floor(np.min(corners, axis=0) / scale).astype(int) - MARGIN
        x1, y1 = np.ceil(np.max(corners, axis=0) / scale).astype(int) + MARGIN
        region[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    texts = ("".join(filter(str.isascii, text)).strip().lower() for _, text, _ in detections or [])
    return OcrReading(tuple(filter(None, texts)), region)


def read_texts(pictures: UInt8[np.ndarray, "n height width 3"]) -> list[OcrReading]:
    """One reading per picture; a picture that comes again is read once."""
    unique = {picture.tobytes(): picture for picture in pictures}
    readings = {key: read_text(picture) for key, picture in unique.items()}
    return [readings[picture.tobytes()] for picture in pictures]
