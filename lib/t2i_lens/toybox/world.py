"""The known world: scenes, how they are said, and how they are drawn.

A scene is what a caption states and what the judge must find again. ``sample_scene`` draws a random
one, ``caption`` says it in natural English, ``render`` draws it as a 64x64 picture.

Shown in: book/toybox.md
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_lens.toybox.atlas import sprites, world_words
from t2i_lens.toybox.placing import BOXES, PICTURE, SIGN_BOX, place

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (BT.601)
STYLES = ("sketch",)  # beside the icons' own
SKETCH_SHARE = 0.12  # of the scenes without a sign
PENCIL = (80, 80, 80)  # ink of a sketch that states no colour
COUNTS = (0.3, 0.36, 0.22, 0.12)  # shares of one object, two, three, and a sign
RELATIONS = ("next to", "left of", "above", "on top of", "with", "and")
MARGIN = 1  # pixels between a drawing and its box
SIGN = (60, 28)  # pixels


@dataclass(frozen=True)
class Thing:
    """One object: a noun of the world, or a sign that carries ``word``."""

    noun: str
    colour: str | None = None
    size: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Scene:
    """One to three things; ``relation`` holds between the first two.

    Background None is white; style None is the icons' own, "sketch" is pencil lines on the paper.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None
    style: str | None = None


def sample_thing(rng: np.random.Generator, nouns: list[str]) -> Thing:
    """A random object: half of them coloured, three in ten with a stated size."""
    words = world_words()
    colour = str(rng.choice(list(words["colours"]))) if rng.random() < 0.5 else None
    size = str(rng.choice(words["sizes"])) if rng.random() < 0.3 else None
    return Thing(str(rng.choice(nouns)), colour, size)


def sample_sign(rng: np.random.Generator) -> Thing:
    """A sign with a random word; a third of them on a coloured board."""
    words = world_words()
    colour = str(rng.choice(list(words["colours"])[:7])) if rng.random() < 0.33 else None
    return Thing("sign", colour, None, str(rng.choice(words["words"])))


def _fitting(things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """Sizes that have room: beside a large thing the other is small, of three none is large."""
    if len(things) == 3 or any(thing.word for thing in things):
        return tuple(replace(t, size=None) if t.size == "large" else t for t in things)
    if len(things) == 2 and any(thing.size == "large" for thing in things):
        other = things[0].size == "large"
        return tuple(replace(t, size="small") if i == other else t for i, t in enumerate(things))
    return things


def sample_scene(
    rng: np.random.Generator,
    counts: tuple[float, float, float, float] = COUNTS,
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
        sign = sample_sign(rng)
        if rng.random() < 0.25:
            return Scene(_fitting((sample_thing(rng, nouns), sign)), "next to", background)
        return Scene((sign,), None, background)
    picked = [str(noun) for noun in rng.choice(nouns, size=kind + 1, replace=False)]
    things = _fitting(tuple(sample_thing(rng, [noun]) for noun in picked))
    relation = str(rng.choice(RELATIONS)) if len(things) > 1 else None
    style = "sketch" if rng.random() < SKETCH_SHARE else None
    if style == "sketch":  # black pencil is hardly another pencil
        things = tuple(replace(t, colour=None) if t.colour == "black" else t for t in things)
    return Scene(things, relation, background, style)


@lru_cache(maxsize=4096)
def _sprite(noun: str, colour: str | None, side: int, style: str | None = None) -> Image.Image:
    """RGBA picture of a noun, longer side ``side``, tinted if a colour is stated."""
    if style == "sketch":
        return _sketch(_sprite(noun, None, side), colour)
    rgba = sprites()[noun].astype(np.float32) / 255
    if colour is not None:
        rgba = np.concatenate([_tint(rgba[..., :3], rgba[..., 3], colour), rgba[..., 3:]], -1)
    picture = Image.fromarray((rgba * 255).round().astype(np.uint8))
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    return picture.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.LANCZOS
    )


def _sketch(sprite: Image.Image, colour: str | None) -> Image.Image:
    """Edges and a little shading of a sprite as ink of one colour, transparent elsewhere."""
    rgba = np.pad(np.asarray(sprite, np.float32) / 255, ((1, 1), (1, 1), (0, 0)))
    luminance = rgba[..., :3] @ LUMINANCE
    on_paper = luminance * rgba[..., 3] + 1 - rgba[..., 3]
    edges = np.hypot(*np.gradient(on_paper)) + np.hypot(*np.gradient(rgba[..., 3]))
    ink = np.clip(1.2 * edges + 0.5 * (1 - on_paper), 0, 1)[1:-1, 1:-1]
    target = np.array(PENCIL if colour is None else world_words()["colours"][colour])
    rgb = np.broadcast_to(target, (*ink.shape, 3))
    return Image.fromarray(np.dstack([rgb, (ink * 255).round()]).astype(np.uint8))


def _tint(rgb: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """Map luminance to black - colour - white so that the sprite's median becomes the colour."""
    luminance = rgb @ LUMINANCE
    median = float(np.clip(np.median(luminance[alpha > 0.5]), 0.05, 0.95))
    level = luminance ** (np.log(0.6) / np.log(median))  # the median goes to 0.6
    target = np.array(world_words()["colours"][colour], np.float32) / 255
    dark = target * np.clip(level / 0.6, 0, 1)[..., None]
    light = np.clip((level - 0.6) / 0.4, 0, 1)[..., None] * 0.75
    return dark + (1 - dark) * light * (level > 0.6)[..., None]


@lru_cache(maxsize=512)
def _sign(word: str, colour: str | None) -> Image.Image:
    """A board with the word in capitals."""
    width, height = SIGN
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


def _draw_thing(thing: Thing, style: str | None) -> tuple[Image.Image, tuple[int, int]]:
    """A thing's picture, and width and height of the box in whose middle it stands."""
    if thing.noun == "sign":
        return _sign(thing.word, thing.colour), SIGN_BOX
    side = BOXES[thing.size]
    return _sprite(thing.noun, thing.colour, side - 2 * MARGIN, style), (side, side)


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of ``draw`` without its boxes: uint8 ``[64, 64, 3]``, sRGB."""
    return draw(scene, rng)[0]


def draw(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        scene: What to draw; nouns may also be wide nouns or held-out concepts.
        rng: Placement.
    Returns:
        Picture uint8 ``[64, 64, 3]``, sRGB, and each thing's box in pixels ``[thing, 4]`` as
        (left, top, right, bottom).
    """
    paper = (255, 255, 255) if scene.background is None else tuple(_pale(scene.background, 0.4))
    canvas = Image.new("RGB", (PICTURE, PICTURE), paper)
    pictures, rooms = zip(*(_draw_thing(thing, scene.style) for thing in scene.things), strict=True)
    boxes = []
    for picture, room, (x, y) in zip(
        pictures, rooms, place(rooms, scene.relation, rng), strict=True
    ):
        width, height = picture.size
        left, top = x + (room[0] - width) // 2, y + (room[1] - height) // 2
        canvas.paste(picture, (left, top), picture)
        boxes.append((left, top, left + width, top + height))
    return np.asarray(canvas), np.array(boxes)


def gradient_map(picture: np.ndarray, stops: list[list[int]]) -> np.ndarray:
    """Colour scheme of a picture: its luminance, dark to light, mapped to evenly spaced colours.

    Args:
        picture: uint8 ``[height, width, 3]``, sRGB.
        stops: At least two colours, sRGB 0..255.
    """
    luminance = picture.astype(np.float32) @ LUMINANCE
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(luminance, places, part) for part in zip(*stops, strict=True)]
    return np.dstack(channels).round().astype(np.uint8)
