"""Measure the toybox: ``make quality`` writes ``quality.json``, a contact sheet and the model card.

Shown in: book/toybox.md
"""

import json
from collections.abc import Sequence
from itertools import product
from textwrap import wrap

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from statsmodels.stats.proportion import proportion_confint

from t2i_lens import profiles
from t2i_lens.ocr import read_text
from t2i_lens.sampling import generate
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.captions import caption
from t2i_lens.toybox.card import write_card
from t2i_lens.toybox.export import TOYBOX, load_pair
from t2i_lens.toybox.judge import Judge, load_judge
from t2i_lens.toybox.stages import ContrastivePair
from t2i_lens.toybox.world import Scene, Thing, render, sample_scene

BACKGROUNDS = [None, *list(world_words()["colours"])[:7]]
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


def share(hits: Sequence[bool]) -> dict:
    """A proportion with n and its 95 % Wilson interval."""
    hits = np.asarray(hits, bool)
    low, high = proportion_confint(hits.sum(), len(hits), method="wilson")
    return {"value": float(hits.mean()), "interval": [float(low), float(high)], "n": len(hits)}


def judge_quality(judge: Judge, scenes: int = 2000, seed: int = 101) -> dict:
    """The judge on held-out world pictures: per-noun recall and precision, colours, words."""
    rng = np.random.default_rng(seed)
    stated = [sample_scene(rng, nouns=judge.nouns) for _ in range(scenes)]
    reading = judge.read(np.stack([render(scene, rng) for scene in stated]))
    truth = np.array([[any(t.noun == n for t in s.things) for n in judge.nouns] for s in stated])
    found = reading.nouns > 0.5
    both = (truth & found).sum(0)
    colours, words = [], []
    for i, scene in enumerate(stated):
        for thing in scene.things:
            if thing.word:
                words.append(judge.word(reading)[i] == thing.word)
            else:
                column = judge.nouns.index(thing.noun)
                seen = [*judge.colours, None][reading.colours[i, column].argmax()]
                colours.append(seen == thing.colour)
    return {
        "recall_mean_per_noun": float((both / truth.sum(0)).mean()),
        "recall_worst_noun": float((both / truth.sum(0)).min()),
        "precision_mean_per_noun": float((both / np.maximum(found.sum(0), 1)).mean()),
        "precision_worst_noun": float((both / np.maximum(found.sum(0), 1)).min()),
        "colour": share(colours),
        "word": share(words),
        "pictures": scenes,
    }


@torch.no_grad()
def text_quality(pair: ContrastivePair, pipe: StableDiffusionPipeline, seed: int = 102) -> dict:
    """Zero-shot noun accuracy on held-out single objects; retrieval@1, text to picture, of 256.

    Zero-shot with two sets of sentences. "Described": every single-object sentence of the world
    (noun x colour x size x background), the noun of the best one counts, as CLIP's ensembles of
    templates do. "Plain": "a photo of a NOUN", on all pictures and on those in natural colours
    alone, because the plain sentence speaks of an untinted object.
    """
    rng = np.random.default_rng(seed)
    words = world_words()
    nouns = list(words["nouns"])

    def embed(texts: list[str]) -> torch.Tensor:
        ids = pipe.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        return pair.embed_text(ids)

    singles = [sample_scene(rng, (1.0, 0.0, 0.0, 0.0)) for _ in range(640)]
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in singles]))
    seen = pair.embed_pictures(pictures)
    kinds = list(product([None, *words["colours"]], [None, *words["sizes"]], BACKGROUNDS))
    described = [
        embed([caption(Scene((Thing(n, c, s),), background=b)) for c, s, b in kinds]) for n in nouns
    ]
    best = torch.stack([(seen @ texts.T).amax(1) for texts in described], 1).argmax(1)
    plain = (seen @ embed([f"a photo of a {noun}" for noun in nouns]).T).argmax(1)
    asked = [scene.things[0] for scene in singles]

    def hits(guess: torch.Tensor, natural: bool = False) -> dict:
        pairs = zip(guess, asked, strict=True)
        kept = [(nouns[i], t) for i, t in pairs if not natural or t.colour is None]
        return share([noun == thing.noun for noun, thing in kept])

    scenes: dict[str, Scene] = {}
    while len(scenes) < 256:  # distinct contents: no two scenes say the same
        scene = sample_scene(rng)
        scenes.setdefault(caption(scene), scene)
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes.values()]))
    ranks = (embed(list(scenes)) @ pair.embed_pictures(pictures).T).argmax(1)
    return {
        "zero_shot_noun_described": hits(best),
        "zero_shot_noun_plain_natural_colours": hits(plain, natural=True),
        "zero_shot_noun_plain_all": hits(plain),
        "retrieval_at_1_of_256": share((ranks == torch.arange(256)).numpy()),
    }


def drawing_quality(
    pipe: StableDiffusionPipeline, judge: Judge, each: int, seed: int = 103
) -> dict:
    """What the U-Net draws of what it is asked, by the judge (and, for words, a real OCR engine).

    Args:
        each: Fresh prompts of one object and of two; half as many of three.
    """
    rng = np.random.default_rng(seed)
    one = [sample_scene(rng, (1.0, 0.0, 0.0, 0.0)) for _ in range(each)]
    two = [sample_scene(rng, (0.0, 1.0, 0.0, 0.0)) for _ in range(each)]
    three = [sample_scene(rng, (0.0, 0.0, 1.0, 0.0)) for _ in range(each // 2)]
    words = [Scene((Thing("sign", word=w),)) for w in world_words()["words"] * 6]
    result = {}
    for name, scenes in (("one_object", one), ("two_objects", two), ("three_objects", three)):
        judged = judge_scenes(draw_scenes(pipe, scenes), scenes, judge)
        for measure, hits in judged.items():
            if hits:
                result[f"{name}_{measure}"] = share(hits)
    pictures = draw_scenes(pipe, words)
    asked = [scene.things[0].word for scene in words]
    seen = judge.word(judge.read(pictures))
    result["sign_word_judge"] = share([a == b for a, b in zip(asked, seen, strict=True)])
    seen = [read_ocr(picture) for picture in pictures]
    result["sign_word_ocr"] = share([a == b for a, b in zip(asked, seen, strict=True)])
    # The ceiling: the same engine on the world's own signs.
    real = [read_ocr(render(scene, rng)) for scene in words]
    result["sign_word_ocr_on_world_pictures"] = share(
        [a == b for a, b in zip(asked, real, strict=True)]
    )
    return result


def draw_scenes(pipe: StableDiffusionPipeline, scenes: Sequence[Scene]) -> np.ndarray:
    """One picture per scene: uint8 ``[scene, 64, 64, 3]``; sixteen in turn share a seed."""
    groups = [scenes[start : start + 16] for start in range(0, len(scenes), 16)]
    drawn = [
        generate(pipe, [caption(scene) for scene in group], [1000 + number])[:, 0]
        for number, group in enumerate(groups)
    ]
    return np.concatenate(drawn)


def judge_scenes(
    pictures: np.ndarray, scenes: Sequence[Scene], judge: Judge
) -> dict[str, list[bool]]:
    """Per scene: all nouns there; all with their stated colours; the relation if all are there."""
    reading = judge.read(pictures)
    result: dict[str, list[bool]] = {"present": [], "coloured": [], "relation": []}
    for i, scene in enumerate(scenes):
        columns = [judge.nouns.index(thing.noun) for thing in scene.things]
        present = all(reading.nouns[i, column] > 0.5 for column in columns)
        result["present"].append(present)
        if any(thing.colour for thing in scene.things):
            seen = [[*judge.colours, None][reading.colours[i, c].argmax()] for c in columns]
            right = all(t.colour in (None, s) for t, s in zip(scene.things, seen, strict=True))
            result["coloured"].append(present and right)
        if present and scene.relation in ("left of", "above"):
            (x0, y0), (x1, y1) = reading.centres[i, columns[:2]]
            result["relation"].append(bool(x0 < x1 if scene.relation == "left of" else y0 < y1))
    return result


def read_ocr(picture: np.ndarray) -> str:
    """Letters that a real OCR engine finds in a picture, lower case, joined."""
    return "".join(read_text(picture).lines).replace(" ", "")


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


def world_sheet(seed: int = 104, columns: int = 8, rows: int = 3) -> Image.Image:
    """Random scenes of the world with their captions: what the training pictures look like."""
    rng = np.random.default_rng(seed)
    tile, label = 128, 44
    sheet = Image.new("RGB", (columns * (tile + 8), rows * (tile + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for place in range(columns * rows):
        scene = sample_scene(rng)
        x, y = place % columns * (tile + 8) + 4, place // columns * (tile + label)
        picture = Image.fromarray(render(scene, rng)).resize((tile, tile), Image.BICUBIC)
        sheet.paste(picture, (x, y))
        pen.rectangle([x, y, x + tile - 1, y + tile - 1], outline="#cccccc")
        pen.text((x, y + tile + 2), "\n".join(wrap(caption(scene, rng), 22)), "black")
    return sheet


def main() -> None:
    """Measure everything and write the figures, the sheet and the card."""
    profile = profiles.get("toybox")
    pipe, judge = profiles.load(profile), load_judge()
    quality = {
        "weights": profiles.fingerprint(profile),
        "judge": judge_quality(judge),
        "text_encoder": text_quality(load_pair(pipe), pipe),
        "drawing": drawing_quality(pipe, judge, each=208),
    }
    (TOYBOX / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    contact_sheet(pipe).save(TOYBOX / "contact_sheet.png", optimize=True)
    world_sheet().save(TOYBOX / "world.png", optimize=True)
    write_card(pipe, quality)
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
