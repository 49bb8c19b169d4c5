"""The toybox's model card, in the Hub's format, written from its measured quality.

Shown in: book/toybox.md
"""

import json
from pathlib import Path

import pandas as pd
import yaml
from diffusers import StableDiffusionPipeline

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.training.export import TOYBOX
from t2i_lens.toybox.world.atlas import world_words

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

{published}

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

PUBLISHED = DATA / "published_drawing.yaml"  # of real models, beside what is wanted of the toybox


def card_table(quality: dict) -> pd.DataFrame:
    """The toybox beside what is wanted of it and published rows of real models."""
    published = yaml.safe_load(PUBLISHED.read_text())
    rows = {}
    for entry in published["rows"]:
        figure = quality[entry["part"]].get(entry["measure"])
        cell = "not measured yet"
        if figure is not None:
            low, high = figure["interval"]
            cell = f"{figure['value']:.2f} [{low:.2f}, {high:.2f}], n {figure['n']}"
        values = [entry.get("models", {}).get(model) for model in published["models"]]
        shown = ["" if value is None else f"{value:.2f}" for value in values]
        rows[entry["name"]] = [cell, entry["wanted"], *shown]
    columns = ["toybox", "wanted", *published["models"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def speed_rows(weights: str, file: Path = TOYBOX / "bench.json") -> list[dict]:
    """Rows of `make bench`: medians, with the lowest and highest round as the interval.

    Args: weights: Fingerprint of the model; there are no rows of another model's speed.
    """
    if not file.exists():
        return []
    result = json.loads(file.read_text())
    if result["weights"] != weights:
        return []
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
        for kind, by_name in kinds.items()
        for name, f in by_name.items()
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
    return pd.DataFrame(rows + speed_rows(quality["weights"])).fillna("").set_index("measure")


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
        published=yaml.safe_load(PUBLISHED.read_text())["source"].strip(),
        card=card_table(quality).to_markdown(),
        table=quality_table(quality).to_markdown(disable_numparse=True),
    )
    (TOYBOX / "README.md").write_text(card)
