"""The known world: scenes, and how they are drawn.

A scene is what a caption may state and what the judge must find again. `sample_scene` makes a
random one, `draw` draws it as a 64x64 picture; `captions` says it.

Shown in: book/toybox.md
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_lens.toybox.world.atlas import held_out, sprites, styles_of, world_words
from t2i_lens.toybox.world.placing import LATTICE, PICTURE, place

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (BT.601)
COUNTS = (0.3, 0.36, 0.22, 0.12)  # shares of one object, two, three, and a sign
RELATIONS = ("next to", "left of", "above", "on top of", "with", "and")
TINTED, SIZED = 0.4, 0.3  # shares of things with a tint, and with a small or large size
ONE_STYLE = 0.6  # share of the scenes of several things that are all of one style
GROUNDED = 0.4  # share of the scenes on a coloured ground; half of these are lit from a side
TURNED, STRETCHED = 12, 0.12  # at most, degrees and share of the height; a third of things each
# Longer side of a drawing in pixels, by stated size, for one, two, and three things.
SIDES = {
    "small": ((16, 22), (16, 20), (14, 16)),
    None: ((24, 38), (22, 32), (18, 26)),
    "large": ((40, 52), (34, 40), (26, 30)),
}
SIGN = (60, 28)  # pixels


@dataclass(frozen=True)
class Thing:
    """One object: a noun of the world, or a sign that carries `word`.

    Colour None is the drawing's own colours; style None is any.
    """

    noun: str
    colour: str | None = None
    size: str | None = None
    word: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class Scene:
    """One to three things; `relation` holds between the first two. Background None is white."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def style(self) -> str | None:
        """The style that all things share, if there is one."""
        shared = {thing.style for thing in self.things}
        return shared.pop() if len(shared) == 1 else None


def trained_styles(noun: str) -> tuple[str, ...]:
    """The styles in which training pictures show a noun: all it has but the held-out ones."""
    return tuple(s for s in styles_of()[noun] if (noun, s) not in held_out())


def sample_thing(
    rng: np.random.Generator, noun: str, style: str | None = None, held_out_too: bool = False
) -> Thing:
    """A random object: some tinted, some small or large.

    Args:
        style: Taken where the noun may be drawn in it; a random one of the noun's otherwise.
        held_out_too: Styles that training pictures do not show the noun in are allowed.
    """
    words = world_words()
    colour = str(rng.choice(list(words["colours"]))) if rng.random() < TINTED else None
    size = str(rng.choice(words["sizes"])) if rng.random() < SIZED else None
    has = styles_of()[noun] if held_out_too else trained_styles(noun)
    drawn = style if style in has else str(rng.choice(has))
    return Thing(noun, colour, size, style=drawn)


def sample_sign(rng: np.random.Generator) -> Thing:
    """A sign with a random word; a third of them on a coloured board."""
    words = world_words()
    colour = str(rng.choice(list(words["colours"])[:7])) if rng.random() < 0.33 else None
    return Thing("sign", colour, None, str(rng.choice(words["words"])))


def sample_scene(
    rng: np.random.Generator,
    counts: tuple[float, float, float, float] = COUNTS,
    nouns: list[str] | None = None,
    held_out_too: bool = False,
) -> Scene:
    """A random scene.

    Args:
        rng: Source of randomness; the same state gives the same scene.
        counts: Probabilities of one object, two, three, and a sign (one in four of the signs
            stands beside an object).
        nouns: Nouns to draw from; the world's by default.
        held_out_too: Held-out pairs of noun and style are allowed.
    """
    words = world_words()
    nouns = nouns or list(words["nouns"])
    kind = rng.choice(4, p=counts)
    background = None
    if rng.random() < GROUNDED:
        background = str(rng.choice(list(words["colours"])[:7]))
    shared = str(rng.choice(list(words["styles"]))) if rng.random() < ONE_STYLE else None
    if kind == 3:
        sign = sample_sign(rng)
        if rng.random() < 0.25:
            thing = sample_thing(rng, str(rng.choice(nouns)), shared, held_out_too)
            thing = replace(thing, size="small")
            return Scene((thing, sign), "above", background)
        return Scene((sign,), None, background)
    picked = [str(noun) for noun in rng.choice(nouns, size=kind + 1, replace=False)]
    things = tuple(sample_thing(rng, noun, shared, held_out_too) for noun in picked)
    if len(things) > 1 and all(thing.size == "large" for thing in things[:2]):
        things = (things[0], replace(things[1], size=None), *things[2:])  # there is no room
    relation = str(rng.choice(RELATIONS)) if len(things) > 1 else None
    return Scene(things, relation, background)


def tint(rgb: np.ndarray, alpha: np.ndarray, colour: str) -> np.ndarray:
    """Map luminance to black - colour - white so that the drawing's median becomes the colour.

    Args: rgb, alpha: In [0, 1], `[height, width, 3]` and `[height, width]`.
    """
    luminance = rgb @ LUMINANCE
    median = float(np.clip(np.median(luminance[alpha > 0.5]), 0.05, 0.95))
    level = luminance ** (np.log(0.6) / np.log(median))  # the median goes to 0.6
    target = np.array(world_words()["colours"][colour], np.float32) / 255
    dark = target * np.clip(level / 0.6, 0, 1)[..., None]
    light = np.clip((level - 0.6) / 0.4, 0, 1)[..., None] * 0.75
    return dark + (1 - dark) * light * (level > 0.6)[..., None]


@lru_cache(maxsize=8192)
def _drawing(noun: str, style: str, colour: str | None) -> Image.Image:
    rgba = sprites()[f"{noun}/{style}"]
    if colour is not None:
        parts = rgba.astype(np.float32) / 255
        rgb = tint(parts[..., :3], parts[..., 3], colour)
        rgba = (np.concatenate([rgb, parts[..., 3:]], -1) * 255).round().astype(np.uint8)
    return Image.fromarray(rgba)


def _varied(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrored, turned a little, stretched a little, each or not."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    if rng.random() < 0.33:
        height = round(picture.height * (1 + rng.uniform(-STRETCHED, STRETCHED)))
        picture = picture.resize((picture.width, max(1, height)), Image.BILINEAR)
    if rng.random() < 0.33:
        angle = float(rng.uniform(-TURNED, TURNED))
        picture = picture.rotate(angle, Image.BICUBIC, expand=True)
    return picture


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


def _ground(background: str | None, rng: np.random.Generator) -> Image.Image:
    """White, a pale colour, or a pale colour that is lit from one side."""
    paper = (255, 255, 255) if background is None else tuple(_pale(background, 0.4))
    canvas = np.empty((PICTURE, PICTURE, 3), np.float32)
    canvas[:] = paper
    if background is not None and rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.linspace(-1, 1, PICTURE, dtype=np.float32)
        light = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
        canvas += (255 - canvas) * (0.4 * np.clip(light, -1, 1))[..., None]
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8))


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.LANCZOS)


def _room(picture: Image.Image) -> tuple[int, int]:
    """Width and height of a drawing's box: whole steps of the lattice, at most the picture's."""
    width, height = (min(PICTURE, -(-side // LATTICE) * LATTICE) for side in picture.size)
    return width, height


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of `draw` without its boxes: uint8 `[64, 64, 3]`, sRGB."""
    return draw(scene, rng)[0]


def draw(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        scene: What to draw; nouns may also be wide nouns or held-out objects. A thing without a
            style is drawn in a random one in which the world shows it.
        rng: Style if none is stated, side within the stated size, mirroring, turning, stretching,
            place and light.
    Returns:
        Picture uint8 `[64, 64, 3]`, sRGB, and each thing's box in pixels `[thing, 4]` as
        (left, top, right, bottom).
    """
    canvas = _ground(scene.background, rng)
    signs = any(thing.noun == "sign" for thing in scene.things)
    pictures, sides = [], []
    for thing in scene.things:
        if thing.noun == "sign":
            pictures.append(_sign(thing.word, thing.colour))
            sides.append(SIGN[0])
            continue
        style = thing.style or str(rng.choice(trained_styles(thing.noun)))
        pictures.append(_varied(_drawing(thing.noun, style, thing.colour), rng))
        low, high = SIDES[thing.size][2 if signs else len(scene.things) - 1]
        sides.append(int(rng.integers(low, high + 1)))
    relation = "above" if signs and len(scene.things) > 1 else scene.relation
    corners = None
    while corners is None:  # where there is no room, all drawings become a little smaller
        drawn = [
            picture if thing.noun == "sign" else _shrunk(picture, side)
            for thing, picture, side in zip(scene.things, pictures, sides, strict=True)
        ]
        corners = place([_room(picture) for picture in drawn], relation, rng)
        sides = [max(8, side - 2) for side in sides]
    boxes = []
    for picture, (x, y) in zip(drawn, corners, strict=True):
        width, height = _room(picture)
        x0, y0 = x + (width - picture.width) // 2, y + (height - picture.height) // 2
        canvas.paste(picture, (x0, y0), picture)
        boxes.append((x0, y0, x0 + picture.width, y0 + picture.height))
    return np.asarray(canvas), np.array(boxes)


def gradient_map(picture: np.ndarray, stops: list[list[int]]) -> np.ndarray:
    """Colour scheme of a picture: its luminance, dark to light, mapped to evenly spaced colours.

    Args:
        picture: uint8 `[height, width, 3]`, sRGB.
        stops: At least two colours, sRGB 0..255.
    """
    luminance = picture.astype(np.float32) @ LUMINANCE
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(luminance, places, part) for part in zip(*stops, strict=True)]
    return np.dstack(channels).round().astype(np.uint8)
