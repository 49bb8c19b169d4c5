"""Measure the toybox with joint attention: `python -m t2i_lens.toybox.quality.joint`.

Writes `quality.json` and a sheet of pictures beside its weights, and the table that the toybox's
page shows: the same prompts as the U-Net's card, read by the same judge.

Shown in: book/toybox.md
"""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusion3Pipeline

from t2i_lens.models import joint_toybox, profiles
from t2i_lens.toybox.judge import Judge, load_judge
from t2i_lens.toybox.quality.drawing import judge_scenes, prompt_sets
from t2i_lens.toybox.quality.intervals import share
from t2i_lens.toybox.quality.sheets import captioned_sheet
from t2i_lens.toybox.training.export import TOYBOX
from t2i_lens.toybox.training.joint_export import TOYBOX_MM
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, Thing

TOGETHER = 16
SHOWN = 3  # pictures of each kind on the sheet


def draw_scenes(pipe: StableDiffusion3Pipeline, scenes: Sequence[Scene]) -> np.ndarray:
    """One picture per scene: uint8 `[scene, 64, 64, 3]`; sixteen in turn share a seed."""
    pictures = []
    for number, start in enumerate(range(0, len(scenes), TOGETHER)):
        captions = [caption(scene) for scene in scenes[start : start + TOGETHER]]
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(1000 + number))
        drawn = pipe(
            captions,
            latents=noise.repeat(len(captions), 1, 1, 1),
            num_inference_steps=joint_toybox.JOINT_TOYBOX.num_inference_steps,
            guidance_scale=joint_toybox.JOINT_TOYBOX.guidance_scale,
            max_sequence_length=0,  # no empty tokens in place of the encoder that is left out
            output_type="np",
        ).images
        pictures.append(np.round(drawn * 255).astype(np.uint8))
    return np.concatenate(pictures)


def drawing_quality(
    pipe: StableDiffusion3Pipeline, judge: Judge, count: int
) -> tuple[dict[str, dict], list[tuple[Scene, np.ndarray]]]:
    """Shares by the names of the U-Net's card, and the first pictures of each kind.

    Args:
        count: Fresh prompts of each kind.
    """
    result, shown = {}, []
    for name, scenes in prompt_sets(count).items():
        pictures = draw_scenes(pipe, scenes)
        judged = judge_scenes(pictures, scenes, judge)
        result[f"{name}_present"] = share(judged["present"])
        for kind in ("coloured", "styled", "relation"):
            if judged[kind]:
                result[f"{name}_{kind}"] = share(judged[kind])
        shown += list(zip(scenes[:SHOWN], pictures[:SHOWN], strict=True))
    known = world_words()["words"]
    signs = [Scene((Thing("sign", word=known[i % len(known)]),)) for i in range(count)]
    pictures = draw_scenes(pipe, signs)
    read = judge.word(judge.read(pictures))
    right = [word == scene.things[0].word for word, scene in zip(read, signs, strict=True)]
    result["sign_word_judge"] = share(right)
    return result, shown + list(zip(signs[:SHOWN], pictures[:SHOWN], strict=True))


def table(joint: dict[str, dict], unet: dict[str, dict]) -> pd.DataFrame:
    """The two models beside each other, a row per measure."""

    def cell(figure: dict) -> str:
        low, high = figure["interval"]
        return f"{figure['value']:.2f} [{low:.2f}, {high:.2f}], n {figure['n']}"

    rows = {name.replace("_", " "): [cell(joint[name]), cell(unet[name])] for name in joint}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["joint attention", "U-Net"])
    return frame.rename_axis("share of pictures")


def main() -> None:
    """Measure and write everything."""
    pipe, judge = joint_toybox.joint_pipe().get(), load_judge()
    drawing, shown = drawing_quality(pipe, judge, count=128)
    weights = profiles.fingerprint(joint_toybox.JOINT_TOYBOX)
    quality = {"weights": weights, "drawing": drawing}
    (TOYBOX_MM / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    unet = json.loads((TOYBOX / "quality.json").read_text())["drawing"]
    (TOYBOX_MM / "quality.md").write_text(table(drawing, unet).to_markdown() + "\n")
    captions = [caption(scene) for scene, _ in shown]
    sheet = captioned_sheet([picture for _, picture in shown], captions)
    sheet.save(TOYBOX_MM / "sheet.png", optimize=True)
    print(table(drawing, unet))


if __name__ == "__main__":
    main()
