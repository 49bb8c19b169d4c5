"""Pictures of a held-out concept among the world's things, each with the sentence that says it.

They are what textual inversion is trained on in place of templates, to see whether the templates
are to blame for what the word does to a prompt.

Shown in: book/toybox.md
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from t2i_lens.inversion.embeddings import CONTEXTS
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, Thing, render, sample_scene

PICTURES = 24
COUNTS = (0.0, 0.6, 0.4, 0.0)  # of two things and of three: the concept is never alone


def context(thing: Thing, rng: np.random.Generator) -> tuple[Scene, str]:
    """A random scene in which one thing is the concept's, and its caption with `{}` for it.

    Everything else is as in the training of the model.
    """
    scene = sample_scene(rng, COUNTS)
    index = int(rng.integers(len(scene.things)))
    size = scene.things[index].size
    text = caption(_with(scene, index, Thing("{}", size=size)), rng)
    return _with(scene, index, replace(thing, size=size)), text


def contexts(concept: Thing, number: int = PICTURES) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 `[picture, 64, 64, 3]` of a concept in contexts, and their captions."""
    pictures, captions = [], []
    for view in range(number):
        rng = np.random.default_rng([17, view])
        scene, text = context(concept, rng)
        pictures.append(render(scene, rng))
        captions.append(text)
    return np.stack(pictures), captions


def write(name: str, concept: Thing, folder: Path) -> None:
    """Draw a concept's contexts into `<folder>/<name>` and list them in its contexts.yaml."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    pictures, captions = contexts(concept)
    listing = {f"context_{i:02}.png": text for i, text in enumerate(captions, start=1)}
    for file, picture in zip(listing, pictures, strict=True):
        Image.fromarray(picture).save(target / file, optimize=True)
    text = yaml.safe_dump(listing, sort_keys=False, width=100)
    (target / CONTEXTS).write_text(text)


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    things = list(scene.things)
    things[index] = thing
    return replace(scene, things=tuple(things))
