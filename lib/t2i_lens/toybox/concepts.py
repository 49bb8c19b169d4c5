"""Six pictures of each held-out object: the subjects of textual inversion.

``python -m t2i_lens.toybox.concepts`` draws them into ``data/concepts``.

Shown in: book/toybox.md
"""

import numpy as np
import yaml
from PIL import Image

from t2i_lens.paths import DATA
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.world import Scene, Thing, render

FOLDER = DATA / "concepts"
HERO = "cat_toy"
# Sizes and backgrounds vary, as in a handful of photographs of one thing.
VIEWS = (
    (None, None),
    (None, "blue"),
    ("large", None),
    (None, "yellow"),
    (None, None),
    ("large", "green"),
)


def main() -> None:
    """Draw all concepts and write their list."""
    entries = []
    for number, concept in enumerate(world_words()["concepts"]):
        name = concept["name"]
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        images = []
        for view, (size, background) in enumerate(VIEWS, start=1):
            scene = Scene((Thing(name, size=size),), background=background)
            picture = render(scene, np.random.default_rng([7, number, view]))
            images.append(f"{name}/{view}.png")
            Image.fromarray(picture).save(FOLDER / images[-1], optimize=True)
        kept = {
            key: concept[key] for key in ("placeholder_token", "initializer_token", "superclass")
        }
        entries.append({"name": name, **kept, "hero": name == HERO, "images": images})
    head = "# Objects that no caption of the training names; drawn by t2i_lens.toybox.concepts.\n"
    listing = yaml.safe_dump(entries, sort_keys=False, width=100)
    (FOLDER / "concepts.yaml").write_text(head + listing)


if __name__ == "__main__":
    main()
