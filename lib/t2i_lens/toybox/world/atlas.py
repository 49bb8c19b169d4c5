"""The sprite atlas: every drawing of the world, rendered once, in one PNG.

`python -m t2i_lens.toybox.world.atlas FOLDER` rebuilds it from the icon packages that
`data/world/world.yaml` names, unpacked in folders of their names; everybody else only reads it.

Shown in: book/toybox.md
"""

import io
import json
import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from t2i_lens.base.paths import DATA

WORLD_FILE = DATA / "world" / "world.yaml"
ATLAS_FILE = DATA / "world" / "atlas.png"
INDEX_FILE = DATA / "world" / "atlas.json"
SPRITE = 64  # pixels
WIDE_STYLE = "cartoon"  # wide nouns have one drawing


@lru_cache(maxsize=1)
def world_words() -> dict:
    """The parsed `data/world/world.yaml`: styles, nouns, wide nouns, concepts, colours, words."""
    return yaml.safe_load(WORLD_FILE.read_text())


@lru_cache(maxsize=1)
def held_out() -> frozenset[tuple[str, str]]:
    """Pairs of noun and style that no training picture shows: those of the composed concepts."""
    concepts = world_words()["concepts"]
    return frozenset((c["noun"], c["style"]) for c in concepts if "noun" in c)


@lru_cache(maxsize=1)
def styles_of() -> dict[str, tuple[str, ...]]:
    """The styles in which each name has a drawing, held-out pairs included."""
    by_name: dict[str, list[str]] = {}
    for key in sprites():
        name, style = key.split("/")
        by_name.setdefault(name, []).append(style)
    return {name: tuple(styles) for name, styles in by_name.items()}


def _wanted() -> Iterator[tuple[str, str, list[str]]]:
    """Name, style and candidate icons of every drawing that may exist."""
    words = world_words()
    near = {c["name"]: c["icons"] for c in words["concepts"] if "icons" in c}
    for name, icons in (words["nouns"] | near).items():
        yield from ((name, style, icons) for style in words["styles"])
    yield from ((name, WIDE_STYLE, [name]) for name in words["wide_nouns"])


def _svg(package: dict, icons: list[str]) -> str | None:
    """The first of the icons that the package has, as an SVG document."""
    aliases = package.get("aliases", {})
    for icon in icons:
        while icon in aliases:
            icon = aliases[icon]["parent"]
        if icon in package["icons"]:
            body = package["icons"][icon]
            width = body.get("width", package.get("width", 16))
            height = body.get("height", package.get("height", 16))
            return (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}">{body["body"]}</svg>'
            )
    return None


def _sprite_of(svg: str) -> Image.Image:
    """RGBA, cropped to the ink so that a size means the same for all, longer side `SPRITE`."""
    import resvg_py  # only the one who rebuilds the atlas needs a renderer

    data = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SPRITE, height=2 * SPRITE)
    sprite = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    sprite = sprite.crop(sprite.getbbox())
    scale = SPRITE / max(sprite.size)
    width, height = (max(1, round(side * scale)) for side in sprite.size)
    return sprite.resize((width, height), Image.LANCZOS)


def build(folder: Path) -> None:
    """Render all drawings of the world into the atlas and its index.

    Args:
        folder: Holds a folder of each style's package, named without its scope, such as `noto`.
    Raises:
        SystemExit: a wide noun, or a noun in fewer than three styles: correct world.yaml.
    """
    packages = {
        style: json.loads((folder / entry["package"].split("/")[1] / "icons.json").read_text())
        for style, entry in world_words()["styles"].items()
    }
    drawn = {
        f"{name}/{style}": _sprite_of(svg)
        for name, style, icons in _wanted()
        if (svg := _svg(packages[style], icons)) is not None
    }
    for name in (*world_words()["nouns"], *world_words()["wide_nouns"]):
        least = 3 if name in world_words()["nouns"] else 1
        if sum(key.startswith(f"{name}/") for key in drawn) < least:
            raise SystemExit(f"'{name}' has fewer than {least} drawings; correct {WORLD_FILE.name}")
    columns = math.ceil(math.sqrt(len(drawn)))
    sheet = Image.new("RGBA", (columns * SPRITE, math.ceil(len(drawn) / columns) * SPRITE))
    index = {}
    for number, (key, sprite) in enumerate(drawn.items()):
        corner = (number % columns * SPRITE, number // columns * SPRITE)
        sheet.paste(sprite, corner)
        index[key] = [*corner, *sprite.size]
    sheet.save(ATLAS_FILE, optimize=True)
    INDEX_FILE.write_text(json.dumps(index) + "\n")


@lru_cache(maxsize=1)
def sprites() -> dict[str, np.ndarray]:
    """Every drawing by `name/style`: uint8 `[height, width, 4]` RGBA, longer side 64 pixels."""
    sheet = np.asarray(Image.open(ATLAS_FILE).convert("RGBA"))
    index = json.loads(INDEX_FILE.read_text())
    return {key: sheet[y : y + h, x : x + w] for key, (x, y, w, h) in index.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m t2i_lens.toybox.world.atlas FOLDER")
    build(Path(sys.argv[1]))
    print(f"{len(sprites())} drawings, {ATLAS_FILE.stat().st_size / 1e6:.2f} MB")
