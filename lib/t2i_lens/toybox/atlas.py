"""The sprite atlas: every drawing of the world, rendered once, in one PNG.

``python -m t2i_lens.toybox.atlas ICONS_JSON`` rebuilds it from the icon package named in
``data/world/world.yaml``; everybody else only reads it.

Shown in: book/toybox.md
"""

import io
import json
import math
import sys
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


@lru_cache(maxsize=1)
def world_words() -> dict:
    """The parsed ``data/world/world.yaml``: nouns, wide nouns, concepts, colours, sizes, words."""
    return yaml.safe_load(WORLD_FILE.read_text())


def icons_by_name() -> dict[str, str]:
    """Icon of every drawable name: nouns, wide nouns, and held-out concepts by their name."""
    words = world_words()
    icons = dict(words["nouns"])
    icons.update({name: name for name in words["wide_nouns"]})
    icons.update({concept["name"]: concept["icon"] for concept in words["concepts"]})
    return icons


def _svg(package: dict, icon: str) -> str:
    while icon in package.get("aliases", {}):
        icon = package["aliases"][icon]["parent"]
    if icon not in package["icons"]:
        raise SystemExit(f"icon '{icon}' is not in the package; correct data/world/world.yaml")
    body = package["icons"][icon]
    width = body.get("width", package.get("width", 16))
    height = body.get("height", package.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body["body"]}</svg>'
    )


def build(icons_json: Path) -> None:
    """Render all icons of the world into the atlas and its index.

    Args:
        icons_json: ``icons.json`` of the icon package named in ``world.yaml``.
    Raises:
        SystemExit: an icon of ``world.yaml`` is not in the package.
    """
    import resvg_py  # only the one who rebuilds the atlas needs a renderer

    package = json.loads(icons_json.read_text())
    icons = icons_by_name()
    columns = math.ceil(math.sqrt(len(icons)))
    rows = math.ceil(len(icons) / columns)
    sheet = Image.new("RGBA", (columns * SPRITE, rows * SPRITE))
    index = {}
    for place, (name, icon) in enumerate(icons.items()):
        data = resvg_py.svg_to_bytes(
            svg_string=_svg(package, icon), width=2 * SPRITE, height=2 * SPRITE
        )
        sprite = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
        # Drawings have different margins: crop to the ink so that a size means the same for all.
        sprite = sprite.crop(sprite.getbbox())
        scale = SPRITE / max(sprite.size)
        size = tuple(max(1, round(side * scale)) for side in sprite.size)
        corner = (place % columns * SPRITE, place // columns * SPRITE)
        sheet.paste(sprite.resize(size, Image.LANCZOS), corner)
        index[name] = [*corner, *size]
    sheet.save(ATLAS_FILE, optimize=True)
    INDEX_FILE.write_text(json.dumps(index) + "\n")


@lru_cache(maxsize=1)
def sprites() -> dict[str, np.ndarray]:
    """Every sprite by name: uint8 ``[height, width, 4]`` RGBA, longer side 64 pixels."""
    sheet = np.asarray(Image.open(ATLAS_FILE).convert("RGBA"))
    index = json.loads(INDEX_FILE.read_text())
    return {n: sheet[y : y + h, x : x + w] for n, (x, y, w, h) in index.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m t2i_lens.toybox.atlas ICONS_JSON")
    build(Path(sys.argv[1]))
    print(f"{len(sprites())} sprites, {ATLAS_FILE.stat().st_size / 1e6:.2f} MB")
