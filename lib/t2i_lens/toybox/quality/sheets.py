"""Contact sheets: pictures of the world, of prompts and of concepts.

Shown in: book/toybox.md
"""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.probes.sampling import generate
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import render, sample_scene

SHEET_PROMPTS = (
    "a cat",
    "a red elephant",
    "a cat next to a man",
    "a toy next to a man with a friend",
    "a blue backpack and a yellow clock",
    "a frog above a green car",
    "a small bird on top of a large house",
    'a sign that says "open"',
)


def contact_sheet(pipe: StableDiffusionPipeline, seeds: Sequence[int] = range(8)) -> Image.Image:
    """Prompts in rows, seeds in columns."""
    pictures = generate(pipe, SHEET_PROMPTS, list(seeds))
    tile, label = 96, 18
    sheet = Image.new("RGB", (len(seeds) * tile, len(SHEET_PROMPTS) * (tile + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(SHEET_PROMPTS):
        pen.text((4, row * (tile + label) + 3), prompt, "black")
        for column, picture in enumerate(pictures[row]):
            corner = (column * tile + 1, row * (tile + label) + label)
            sheet.paste(
                Image.fromarray(picture).resize((tile - 2, tile - 2), Image.BICUBIC), corner
            )
    return sheet


def concept_sheet(pipe: StableDiffusionPipeline, drawn: int = 4) -> Image.Image:
    """A row per concept: its six training pictures, and pictures that its token draws alone.

    Args: pipe: To which every token is attached (`token_quality`); others are left out.
    """
    concepts = [c for c in load_concepts() if c.placeholder_token in pipe.tokenizer.get_vocab()]
    tile, label, gap = 66, 110, 12
    width = label + 6 * tile + gap + drawn * tile
    sheet = Image.new("RGB", (width, max(len(concepts), 1) * tile), "white")
    pen = ImageDraw.Draw(sheet)
    for row, concept in enumerate(concepts):
        pen.text((4, row * tile + 26), concept.name.replace("_", " "), "black")
        prompt = f"a photo of a {concept.placeholder_token}"
        by_token = generate(pipe, [prompt], list(range(drawn)))[0]
        for column, picture in enumerate([*concept.images, *by_token]):
            x = label + column * tile + (gap if column >= len(concept.images) else 0)
            sheet.paste(Image.fromarray(picture), (x + 1, row * tile + 1))
    return sheet


def world_sheet(seed: int = 104, columns: int = 8, rows: int = 3) -> Image.Image:
    """Random scenes of the world with their captions: what the training pictures look like."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(columns * rows)]
    pictures = [render(scene, rng) for scene in scenes]
    return captioned_sheet(pictures, [caption(scene, rng) for scene in scenes], columns)


def captioned_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8
) -> Image.Image:
    """Pictures uint8 `[64, 64, 3]` with a few words under each."""
    tile, label = 128, 44
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (tile + 8), rows * (tile + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        x, y = number % columns * (tile + 8) + 4, number // columns * (tile + label)
        sheet.paste(Image.fromarray(picture).resize((tile, tile), Image.BICUBIC), (x, y))
        pen.rectangle([x, y, x + tile - 1, y + tile - 1], outline="#cccccc")
        pen.text((x, y + tile + 2), "\n".join(wrap(text, 22)), "black")
    return sheet
