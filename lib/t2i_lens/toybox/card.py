"""The toybox's model card, in the Hub's format, written from its measured quality.

Shown in: book/toybox.md
"""

import json
from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionPipeline

from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.export import TOYBOX

TEMPLATE = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
---

# Toybox

A Stable Diffusion small enough to train on a laptop: {unet:.1f} M parameters in the U-Net,
{text:.1f} M in the text encoder, {vae:.2f} M in the autoencoder, {side}x{side} pictures.
It loads with `StableDiffusionPipeline.from_pretrained` and needs no code but diffusers and
transformers. Trained from scratch in a known world, so that every picture can be judged exactly.
It was chosen for having Stable Diffusion's weaknesses (`selection.md`); it is made to study
prompts, not to make pictures.

## What it knows

{nouns} nouns in up to {styles} drawing styles, {colours} tints, {words} sign words, any place and
size, white, coloured and lit grounds, one to three objects with relations. Its captions leave out
objects, name absent ones, and omit colours, sizes, grounds and styles. The text encoder alone also
knows {wide} more nouns. Drawings:

{drawings}

## Beside Stable Diffusion

<!-- card -->

{card}

The published rows are GenEval's (djghosh13/geneval@16382b0) but for two animals, which are of
"A Cat Is A Cat" (basiclab/Unraveling-Information-Mix-ups@45c40bd, SD 1.4). Their prompts and
detectors differ from ours: read them as an order of magnitude.

<!-- end of card -->

## Measured quality

<!-- table -->

{table}

<!-- end of table -->

"Judge" is a classifier trained on the world's pictures only; see `quality.json`.

## Limits

Everything outside that world is foreign to it. It shows what a mechanism can do in a small
latent diffusion model; what it shows is a claim about this model, not about Stable Diffusion.
Training curves are in `training/`, pictures in `contact_sheet.png`.
"""

# What organism and published models draw, shares of prompts: row of ours, what is wanted of it,
# and SD 1.5, SD 2.1, SDXL, IF-XL, SD3-2B.
PUBLISHED = {
    "one object": ("drawing", "one_object_present", "at least 0.90", .97, .98, .98, .97, .98),
    "two unlike objects": ("drawing", "two_unlike_present", "0.45 to 0.85", .38, .51, .74, .74, .74),
    "two animals": ("drawing", "two_animals_present", "0.20 to 0.70", .12, None, None, None, None),
    "three objects": ("drawing", "three_objects_present", "lower still", *[None] * 5),
    "colour of one": ("drawing", "colour_of_one_coloured", "at least 0.75", .76, .85, .85, .81, .67),
    "two colours bound": (
        "drawing", "two_colours_coloured", "0.10 to 0.70", .06, .17, .23, .35, .36),
    "sign word read": ("drawing", "sign_word_ocr", "at least 0.80", *[None] * 5),
    "token alone: noun found": ("tokens", "held-out: alone", "at least 0.80", *[None] * 5),
    "token alone: style and colour right": (
        "tokens", "held-out: alike", "at least 0.60", *[None] * 5),
    "token among others: noun found": ("tokens", "held-out: among", "at least 0.60", *[None] * 5),
    "other objects lost, token minus class word": (
        "tokens", "held-out: lost_minus_class_word", "at least 0.15, interval above 0",
        *[None] * 5),
}  # fmt: skip


def card_table(quality: dict) -> pd.DataFrame:
    """The toybox beside what is wanted of it and published rows of real models."""
    rows = {}
    for name, (part, key, wanted, *published) in PUBLISHED.items():
        figure = quality[part].get(key)
        cell = "not measured yet"
        if figure is not None:
            low, high = figure["interval"]
            cell = f"{figure['value']:.2f} [{low:.2f}, {high:.2f}], n {figure['n']}"
        told = ["" if value is None else f"{value:.2f}" for value in published]
        rows[name] = [cell, wanted, *told]
    columns = ["toybox", "wanted", "SD 1.5", "SD 2.1", "SDXL", "IF-XL", "SD3-2B"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def speed_rows(file: Path = TOYBOX / "bench.json") -> list[dict]:
    """Rows of `make bench`: medians, with the lowest and highest round as the interval."""
    if not file.exists():
        return []
    result = json.loads(file.read_text())
    kinds = result["rates"] | {
        "times as fast as the plain loop": result["ratios to the plain loop"]
    }
    return [
        {
            "measure": f"{kind}: {name}",
            "value": f"{f['median']:.2f}",
            "95 % interval": f"{f['low']:.2f} to {f['high']:.2f}",
            "n": f["rounds"],
        }
        for kind, some in kinds.items()
        for name, f in some.items()
    ]


def quality_table(quality: dict) -> pd.DataFrame:
    """Every measured figure, a row each."""
    rows = []
    for part in ("judge", "text_encoder", "drawing", "tokens"):
        for name, figure in quality[part].items():
            row = {"measure": f"{part} · {name}".replace("_", " ")}
            if isinstance(figure, dict) and "interval" in figure:
                low, high = figure["interval"]
                row |= {
                    "value": f"{figure['value']:.3f}",
                    "95 % interval": f"{low:.3f} to {high:.3f}",
                    "n": figure["n"],
                }
            elif isinstance(figure, float):
                row |= {"value": f"{figure:.3f}", "n": quality["judge"]["pictures"]}
            else:
                continue
            rows.append(row)
    return pd.DataFrame(rows + speed_rows()).fillna("").set_index("measure")


def write_card(pipe: StableDiffusionPipeline, quality: dict) -> None:
    """Write `README.md` beside the weights from `quality.json` and `bench.json`."""
    words = world_words()
    sizes = {
        name: sum(p.numel() for p in getattr(pipe, module).parameters()) / 1e6
        for name, module in (("unet", "unet"), ("text", "text_encoder"), ("vae", "vae"))
    }
    drawings = pd.DataFrame.from_dict(words["styles"], orient="index")
    drawings.index.name = "style"
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    card = TEMPLATE.format(
        **sizes,
        side=side,
        **{kind: len(words[kind]) for kind in ("nouns", "styles", "colours", "words")},
        wide=len(words["wide_nouns"]),
        drawings=drawings.to_markdown(),
        card=card_table(quality).to_markdown(),
        table=quality_table(quality).to_markdown(disable_numparse=True),
    )
    (TOYBOX / "README.md").write_text(card)
