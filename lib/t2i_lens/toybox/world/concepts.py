"""Six pictures of each held-out concept: the subjects of textual inversion.

`python -m t2i_lens.toybox.world.concepts` draws them into `data/concepts`, and the hero also in
contexts.

Shown in: book/toybox.md
"""

import numpy as np
import yaml
from PIL import Image

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.world import contexts
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.scenes import Scene, Thing, gradient_map, render

FOLDER = DATA / "concepts"
HERO = "cat_toy"
# Sizes and grounds vary, as in a handful of photographs of one thing; so do places and mirroring.
VIEWS = (
    (None, None),
    (None, "blue"),
    ("large", None),
    (None, "yellow"),
    ("small", None),
    ("large", "green"),
)


# What the pictures of a style or a colour scheme show: one noun each, so that only it is shared.
SUBJECTS = ("cat", "house", "tree", "car", "fish", "chair")


def thing_of(concept: dict, size: str | None = None) -> Thing:
    """The object of an entry of the world's `concepts`: a composed one, or one near to a noun."""
    noun = concept.get("noun", concept["name"])
    return Thing(noun, concept.get("colour"), size, style=concept["style"])


def pictures_of(concept: dict, number: int) -> list[np.ndarray]:
    """The six pictures of an entry of the world's `concepts` or `schemes`."""
    if "gradient" in concept:
        scenes = [Scene((Thing(noun, style=concept["style"]),)) for noun in SUBJECTS]
    else:
        scenes = [Scene((thing_of(concept, size),), background=b) for size, b in VIEWS]
    pictures = [
        render(scene, np.random.default_rng([7, number, view]))
        for view, scene in enumerate(scenes, start=1)
    ]
    if "gradient" in concept:
        pictures = [gradient_map(picture, concept["gradient"]) for picture in pictures]
    return pictures


def main() -> None:
    """Draw all concepts and write their list."""
    entries, words = [], world_words()
    for number, concept in enumerate([*words["concepts"], *words["schemes"]]):
        name = concept["name"]
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        images = []
        for view, picture in enumerate(pictures_of(concept, number), start=1):
            images.append(f"{name}/{view}.png")
            Image.fromarray(picture).save(FOLDER / images[-1], optimize=True)
        tokens = {
            key: concept[key] for key in ("placeholder_token", "initializer_token", "superclass")
        }
        kind = concept.get("kind", "object")
        marks = {"hero": name == HERO, "development": concept.get("development", False)}
        entries.append({"name": name, **tokens, "kind": kind, **marks, "images": images})
    head = "# What no caption of the training names; drawn by t2i_lens.toybox.world.concepts.\n"
    listing = yaml.safe_dump(entries, sort_keys=False, width=100)
    (FOLDER / "concepts.yaml").write_text(head + listing)
    hero = next(c for c in words["concepts"] if c["name"] == HERO)
    contexts.write(HERO, thing_of(hero), FOLDER)


if __name__ == "__main__":
    main()
