"""Measure the toybox: ``make quality`` writes ``quality.json``, a contact sheet and the model card.

Shown in: book/toybox.md
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from textwrap import wrap

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from t2i_lens.judging import ocr
from t2i_lens.models import profiles
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import bos_mass
from t2i_lens.probes.text_attention import read_prompts as read_text
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.captions import caption
from t2i_lens.toybox.card import write_card
from t2i_lens.toybox.export import TOYBOX, load_pair
from t2i_lens.toybox.judge import Judge, load_judge
from t2i_lens.toybox.pair import ContrastivePair
from t2i_lens.toybox.world import STYLES, Scene, Thing, render, sample_scene

CEILING = 96  # world signs read by OCR
SHOWN_FAILURES = 6  # of each kind of prompt
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
    (noun x colour x size x background x style), the noun of the best one counts, as CLIP's
    ensembles of templates do. "Plain": "a photo of a NOUN", on all pictures and on those in
    natural colours alone, because the plain sentence speaks of an untinted object.
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
    looks = ([None, *words["colours"]], [None, *words["sizes"]], BACKGROUNDS, [None, *STYLES])
    kinds = list(product(*looks))
    described = [
        embed([caption(Scene((Thing(n, c, s),), None, b, look)) for c, s, b, look in kinds])
        for n in nouns
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


def bos_attention(pipe: StableDiffusionPipeline, prompts: int = 256, seed: int = 105) -> dict:
    """Attention paid to BOS in each text layer, mean over heads; 95 % t-intervals over prompts."""
    rng = np.random.default_rng(seed)
    reading = read_text(pipe, [caption(sample_scene(rng)) for _ in range(prompts)])
    masses = torch.stack(
        [bos_mass(p, row.eos) for p, row in zip(reading.patterns, reading.rows, strict=True)]
    ).mean(-1)
    result = {}
    for layer, values in zip(reading.layers, masses.T.numpy(), strict=True):
        low, high = DescrStatsW(values).tconfint_mean()
        figure = {"value": float(values.mean()), "interval": [float(low), float(high)]}
        result[f"attention_to_BOS_in_layer_{layer + 1}"] = figure | {"n": prompts}
    return result


def coloured_pair(rng: np.random.Generator) -> Scene:
    """Two objects, each with a colour of its own: nothing but binding tells which is whose."""
    scene = sample_scene(rng, (0.0, 1.0, 0.0, 0.0))
    colours = rng.choice(list(world_words()["colours"])[:7], size=2, replace=False)
    things = [replace(t, colour=str(c)) for t, c in zip(scene.things, colours, strict=True)]
    return replace(scene, things=tuple(things))


def drawing_quality(
    pipe: StableDiffusionPipeline, judge: Judge, each: int, seed: int = 103
) -> tuple[dict, list[tuple[Scene, np.ndarray]]]:
    """What the U-Net draws of what it is asked, by the judge (and, for words, a real OCR engine).

    Args:
        each: Fresh prompts of each kind: one object, two, two coloured, three, and signs.
    Returns:
        The shares by name, and the first pictures of each kind that lack something asked for.
    """
    rng = np.random.default_rng(seed)
    sets = {
        name: [sample_scene(rng, counts) for _ in range(each)]
        for name, counts in (
            ("one_object", (1.0, 0.0, 0.0, 0.0)),
            ("two_objects", (0.0, 1.0, 0.0, 0.0)),
            ("three_objects", (0.0, 0.0, 1.0, 0.0)),
        )
    }
    sets["two_coloured_objects"] = [coloured_pair(rng) for _ in range(each)]
    known = world_words()["words"]
    signs = [Scene((Thing("sign", word=known[i % len(known)]),)) for i in range(each)]
    result, failures = {}, []
    for name, scenes in sets.items():
        pictures = draw_scenes(pipe, scenes)
        judged = judge_scenes(pictures, scenes, judge)
        missed = [i for i, right in enumerate(judged["present"]) if not right]
        failures += [(scenes[i], pictures[i]) for i in missed[:SHOWN_FAILURES]]
        for measure, hits in judged.items():
            if hits:
                result[f"{name}_{measure}"] = share(hits)
    pictures = draw_scenes(pipe, signs)
    asked = [scene.things[0].word for scene in signs]
    seen = judge.word(judge.read(pictures))
    result["sign_word_judge"] = share([a == b for a, b in zip(asked, seen, strict=True)])
    seen = [read_ocr(picture) for picture in pictures]
    result["sign_word_ocr"] = share([a == b for a, b in zip(asked, seen, strict=True)])
    # The ceiling: the same engine on the world's own signs.
    real = [read_ocr(render(scene, rng)) for scene in signs[:CEILING]]
    result["sign_word_ocr_on_world_pictures"] = share(
        [a == b for a, b in zip(asked, real, strict=False)]
    )
    return result, failures


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
    """Per scene: all nouns there, and of sketches alone; all with their stated colours; the
    relation if all are there.
    """
    reading = judge.read(pictures)
    result: dict[str, list[bool]] = {"present": [], "as_sketch": [], "coloured": [], "relation": []}
    for i, scene in enumerate(scenes):
        columns = [judge.nouns.index(thing.noun) for thing in scene.things]
        present = all(reading.nouns[i, column] > 0.5 for column in columns)
        result["present"].append(present)
        if scene.style == "sketch":
            result["as_sketch"].append(present)
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
    return "".join(ocr.read_text(picture).lines).replace(" ", "")


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
    scenes = [sample_scene(rng) for _ in range(columns * rows)]
    pictures = [render(scene, rng) for scene in scenes]
    return captioned_sheet(pictures, [caption(scene, rng) for scene in scenes], columns)


def captioned_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8
) -> Image.Image:
    """Pictures uint8 ``[64, 64, 3]`` with a few words under each."""
    tile, label = 128, 44
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (tile + 8), rows * (tile + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (picture, said) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % columns * (tile + 8) + 4, place // columns * (tile + label)
        sheet.paste(Image.fromarray(picture).resize((tile, tile), Image.BICUBIC), (x, y))
        pen.rectangle([x, y, x + tile - 1, y + tile - 1], outline="#cccccc")
        pen.text((x, y + tile + 2), "\n".join(wrap(said, 22)), "black")
    return sheet


def main() -> None:
    """Measure everything and write the figures, the sheet and the card."""
    profile = profiles.get("toybox")
    pipe, judge = profiles.load(profile), load_judge()
    drawing, failures = drawing_quality(pipe, judge, each=208)
    quality = {
        "weights": profiles.fingerprint(profile),
        "judge": judge_quality(judge),
        "text_encoder": text_quality(load_pair(pipe), pipe) | bos_attention(pipe),
        "drawing": drawing,
    }
    (TOYBOX / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    contact_sheet(pipe).save(TOYBOX / "contact_sheet.png", optimize=True)
    world_sheet().save(TOYBOX / "world.png", optimize=True)
    asked = [caption(scene) for scene, _ in failures]
    sheet = captioned_sheet([picture for _, picture in failures], asked)
    sheet.save(TOYBOX / "failures.png", optimize=True)
    write_card(pipe, quality)
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
