"""The known world: scenes, how they are said, and how they are drawn.

A scene is what a caption states and what the judge must find again. ``sample_scene`` draws a random
one, ``caption`` says it in natural English, ``render`` draws it as a 64x64 picture.

Shown in: book/toybox.md
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_lens.toybox.atlas import sprites, world_words

PICTURE = 64  # pixels
RELATIONS = ("next to", "left of", "above", "on top of", "with", "and")
# Longer side of an object in pixels, by the number of objects and the stated size.
SIDES = {
    1: {"small": (18, 24), None: (32, 44), "large": (50, 58)},
    2: {"small": (15, 19), None: (24, 29), "large": (31, 33)},
    3: {"small": (13, 15), None: (19, 23), "large": (25, 26)},
}


@dataclass(frozen=True)
class Thing:
    """One object: a noun of the world, or a sign that carries ``word``."""

    noun: str
    colour: str | None = None
    size: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Scene:
    """One to three things; ``relation`` holds between the first two; background None is white."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None


def sample_thing(rng: np.random.Generator, nouns: list[str]) -> Thing:
    """A random object: half of them coloured, three in ten with a stated size."""
    words = world_words()
    colour = str(rng.choice(list(words["colours"]))) if rng.random() < 0.5 else None
    size = str(rng.choice(words["sizes"])) if rng.random() < 0.3 else None
    return Thing(str(rng.choice(nouns)), colour, size)


def sample_sign(rng: np.random.Generator, large: bool) -> Thing:
    """A sign with a random word; a third of them on a coloured board."""
    words = world_words()
    colour = str(rng.choice(list(words["colours"])[:7])) if rng.random() < 0.33 else None
    return Thing("sign", colour, "large" if large else None, str(rng.choice(words["words"])))


def sample_scene(
    rng: np.random.Generator,
    counts: tuple[float, float, float, float] = (0.3, 0.35, 0.15, 0.2),
    nouns: list[str] | None = None,
) -> Scene:
    """A random scene.

    Args:
        rng: Source of randomness; the same state gives the same scene.
        counts: Probabilities of one object, two, three, and a sign (one in four of the signs
            stands beside an object).
        nouns: Nouns to draw from; the world's by default.
    """
    nouns = nouns or list(world_words()["nouns"])
    kind = rng.choice(4, p=counts)
    background = None
    if rng.random() < 0.25:
        background = str(rng.choice(list(world_words()["colours"])[:7]))
    if kind == 3:
        sign = sample_sign(rng, large=False)
        if rng.random() < 0.25:
            return Scene((sample_thing(rng, nouns), sign), "next to", background)
        return Scene((sign,), None, background)
    picked = [str(noun) for noun in rng.choice(nouns, size=kind + 1, replace=False)]
    things = tuple(sample_thing(rng, [noun]) for noun in picked)
    relation = str(rng.choice(RELATIONS)) if len(things) > 1 else None
    return Scene(things, relation, background)


@lru_cache(maxsize=4096)
def _sprite(noun: str, colour: str | None, side: int) -> Image.Image:
    """RGBA picture of a noun, longer side ``side``, tinted if a colour is stated."""
    rgba = sprites()[noun].astype(np.float32) / 255
    if colour is not None:
        rgba = np.concatenate([_tint(rgba[..., :3], rgba[..., 3], colour), rgba[..., 3:]], -1)
    picture = Image.fromarray((rgba * 255).round().astype(np.uint8))
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    return picture.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.LANCZOS
    )


def _tint(rgb: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """Map luminance to black - colour - white so that the sprite's median becomes the colour."""
    luminance = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    median = float(np.clip(np.median(luminance[alpha > 0.5]), 0.05, 0.95))
    level = luminance ** (np.log(0.6) / np.log(median))  # the median goes to 0.6
    target = np.array(world_words()["colours"][colour], np.float32) / 255
    dark = target * np.clip(level / 0.6, 0, 1)[..., None]
    light = np.clip((level - 0.6) / 0.4, 0, 1)[..., None] * 0.75
    return dark + (1 - dark) * light * (level > 0.6)[..., None]


@lru_cache(maxsize=512)
def _sign(word: str, colour: str | None, width: int) -> Image.Image:
    """A board with the word in capitals; ``width`` in pixels."""
    height = round(width * 0.46)
    board = (255, 255, 255) if colour is None else tuple(_pale(colour, 0.55))
    picture = Image.new("RGB", (width * 4, height * 4), (40, 40, 40))
    pen = ImageDraw.Draw(picture)
    edge = 6
    pen.rectangle([edge, edge, width * 4 - edge - 1, height * 4 - edge - 1], fill=board)
    size = 8
    while pen.textlength(word.upper(), _font(size + 1)) <= (width - 5) * 4 and size < height * 3.4:
        size += 1
    pen.text((width * 2, height * 2), word.upper(), (15, 15, 15), _font(size), anchor="mm")
    return picture.resize((width, height), Image.LANCZOS).convert("RGBA")


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, so no file of ours is needed and every machine draws alike.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), size)


def _pale(colour: str, share: float) -> np.ndarray:
    rgb = np.array(world_words()["colours"][colour], np.float32)
    return (255 - (255 - rgb) * share).round().astype(int)


def _draw_thing(thing: Thing, count: int, rng: np.random.Generator) -> Image.Image:
    if thing.noun == "sign":
        return _sign(thing.word, thing.colour, int(rng.integers(54, 61) if count == 1 else 36))
    low, high = SIDES[count][thing.size]
    picture = _sprite(thing.noun, thing.colour, int(rng.integers(low, high + 1)))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return picture


def _centres(scene: Scene, pictures: list[Image.Image], rng: np.random.Generator) -> list[tuple]:
    """Centre of each thing, in pixels, so that the stated relation holds and nothing overlaps."""
    half = PICTURE / 2
    if len(pictures) == 1:
        slack = [(PICTURE - side) / 2 - 1 for side in pictures[0].size]
        return [tuple(half + rng.uniform(-max(s, 0), max(s, 0)) * 0.8 for s in slack)]
    if len(pictures) == 3:
        return _three_centres(scene.relation, rng)
    if scene.things[1].noun == "sign":  # the board needs the width: object above or below
        first_above = rng.random() < 0.5
        centres = [(half + rng.uniform(-14, 14), 16), (half + rng.uniform(-8, 8), 50)]
        return centres if first_above else [(x, PICTURE - y) for x, y in centres]
    jitter = [rng.uniform(-2, 2) for _ in range(4)]
    if scene.relation == "above":
        return [
            (half + 4 * jitter[0], 16 + jitter[1] / 2),
            (half + 4 * jitter[2], 48 + jitter[3] / 2),
        ]
    if scene.relation == "on top of":
        base = half + 4 * jitter[0]
        top, bottom = pictures[0].size[1], pictures[1].size[1]
        start = (PICTURE - top - bottom) / 2 + jitter[1] / 2
        return [(base + jitter[2], start + top / 2), (base, start + top + bottom / 2)]
    left, right = (
        (16 + jitter[0] / 2, half + 5 * jitter[1]),
        (48 + jitter[2] / 2, half + 5 * jitter[3]),
    )
    swap = scene.relation != "left of" and rng.random() < 0.5
    return [right, left] if swap else [left, right]


def _three_centres(relation: str | None, rng: np.random.Generator) -> list[tuple]:
    """The first two on one line as their relation says, the third on the other side."""
    jitter = rng.uniform(-2, 2, size=(3, 2))
    if relation in ("above", "on top of"):
        side = 16 if rng.random() < 0.5 else 48
        gap = 4 if relation == "above" else 7
        spots = np.array([(side, 12 + gap), (side, 52 - gap), (PICTURE - side, 32)], float)
    else:
        row = 17 if rng.random() < 0.5 else 47
        spots = np.array([(16, row), (48, row), (32, PICTURE - row)], float)
        if relation != "left of" and rng.random() < 0.5:
            spots[[0, 1]] = spots[[1, 0]]
    return [tuple(spot) for spot in spots + jitter]


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of ``draw`` without its boxes: uint8 ``[64, 64, 3]``, sRGB."""
    return draw(scene, rng)[0]


def draw(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        scene: What to draw; nouns may also be wide nouns or held-out concepts.
        rng: Placement, exact size and mirroring.
    Returns:
        Picture uint8 ``[64, 64, 3]``, sRGB, and each thing's box in pixels ``[thing, 4]`` as
        (left, top, right, bottom).
    """
    paper = (255, 255, 255) if scene.background is None else tuple(_pale(scene.background, 0.4))
    canvas = Image.new("RGB", (PICTURE, PICTURE), paper)
    pictures = [_draw_thing(thing, len(scene.things), rng) for thing in scene.things]
    boxes = []
    for picture, (x, y) in zip(pictures, _centres(scene, pictures, rng), strict=True):
        width, height = picture.size
        left = int(np.clip(round(x - width / 2), 0, PICTURE - width))
        top = int(np.clip(round(y - height / 2), 0, PICTURE - height))
        canvas.paste(picture, (left, top), picture)
        boxes.append((left, top, left + width, top + height))
    return np.asarray(canvas), np.array(boxes)
