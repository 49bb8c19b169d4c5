"""The toybox's model card, in the Hub's format, written from its measured quality.

Shown in: book/toybox.md
"""

import json
from pathlib import Path

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
transformers. Trained from scratch in a known world, so that every picture can be judged exactly;
made to study prompts, not to make pictures.

## What it knows

{nouns} nouns in two styles (drawings, and pencil sketches of them), {colours} tints, {words} sign
words, three sizes, coloured backgrounds, one to three objects with relations. The
text encoder alone also knows {wide} more nouns.
Drawings: {package} {version} ({author}), {licence}.

## Measured quality

<!-- table -->

| measure | value | 95 % interval | n |
|---|---|---|---|
{rows}

<!-- end of table -->

"Judge" is a classifier trained on the world's pictures only; see `quality.json`.

## Limits

Everything outside that world is foreign to it. It shows what a mechanism can do in a small
latent diffusion model; what it shows is a claim about this model, not about Stable Diffusion.
Training curves are in `training/`, pictures in `contact_sheet.png`.
"""


def speed_rows(file: Path = TOYBOX / "bench.json") -> list[str]:
    """Rows of ``make bench``: medians, with the lowest and highest round as the interval."""
    if not file.exists():
        return []
    result = json.loads(file.read_text())
    kinds = result["rates"] | {
        "times as fast as the plain loop": result["ratios to the plain loop"]
    }
    return [
        f"| {kind}: {name} | {f['median']:.2f} "
        f"| {f['low']:.2f} to {f['high']:.2f} | {f['rounds']} |"
        for kind, some in kinds.items()
        for name, f in some.items()
    ]


def write_card(pipe: StableDiffusionPipeline, quality: dict) -> None:
    """Write ``README.md`` beside the weights from ``quality.json`` and ``bench.json``."""
    words = world_words()
    rows = []
    for part in ("judge", "text_encoder", "drawing"):
        for name, figure in quality[part].items():
            if isinstance(figure, dict):
                low, high = figure["interval"]
                cells = f"{figure['value']:.3f} | {low:.3f} to {high:.3f} | {figure['n']}"
            else:
                cells = f"{figure:.3f} | | {quality['judge']['pictures']}"
            if name != "pictures":
                rows.append(f"| {part.replace('_', ' ')}: {name.replace('_', ' ')} | {cells} |")
    sizes = {
        name: sum(p.numel() for p in getattr(pipe, module).parameters()) / 1e6
        for name, module in (("unet", "unet"), ("text", "text_encoder"), ("vae", "vae"))
    }
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    card = TEMPLATE.format(
        **sizes,
        side=side,
        nouns=len(words["nouns"]),
        colours=len(words["colours"]),
        words=len(words["words"]),
        wide=len(words["wide_nouns"]),
        rows="\n".join(rows + speed_rows()),
        **{key: words["style"][key] for key in ("package", "version", "author", "licence")},
    )
    (TOYBOX / "README.md").write_text(card)
