"""Measure the toybox: `make quality` writes `quality.json`, a contact sheet and the model card.

Shown in: book/toybox.md
"""

import json
from collections import Counter
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import pandas as pd
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from t2i_lens.base.paths import DATA
from t2i_lens.inversion.embeddings import attach, load, load_concepts
from t2i_lens.judging import ocr
from t2i_lens.models import profiles
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import bos_mass
from t2i_lens.probes.text_attention import read_prompts as read_text
from t2i_lens.toybox.card import write_card
from t2i_lens.toybox.judge import (
    FOUND,
    Judge,
    classes,
    load_judge,
    mixed_picture,
    other_noun,
)
from t2i_lens.toybox.judge import Outcome as PairOutcome
from t2i_lens.toybox.nets.pair import ContrastivePair
from t2i_lens.toybox.takeover import Sentence, measure
from t2i_lens.toybox.training.export import TOYBOX, load_pair
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, Thing, draw, render, sample_scene, trained_styles

TOKENS = DATA / "embeddings" / "toybox"
CEILING = 96  # world signs read by OCR
SHOWN_FAILURES = 6  # of each kind of prompt
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
    """The judge on held-out world pictures: nouns, by size too, colours, styles, words, mixtures.

    Nouns are the network's own classes; the most frequent confusions are listed.
    """
    rng = np.random.default_rng(seed)
    known = classes()
    stated = [sample_scene(rng, nouns=known, held_out_too=True) for _ in range(scenes)]
    reading = judge.read(np.stack([render(scene, rng) for scene in stated]))
    columns = [judge.nouns.index(noun) for noun in known]
    found = reading.nouns[:, columns] > FOUND
    # An object near to a noun counts for both, so of two that are kin only the likelier is found.
    truth = np.array([[any(t.noun == n for t in s.things) for n in known] for s in stated])
    kin = np.array([[_kin(a, b) for b in known] for a in known])
    excused = (truth @ kin > 0) & ~truth
    both, claimed = (truth & found).sum(0), (found & ~excused).sum(0)
    hits: dict[str, list[bool]] = {"colour": [], "style": [], "word": []}
    by_size: dict[str, list[bool]] = {"small": [], "medium": [], "large": []}
    confused: Counter[str] = Counter()
    for i, scene in enumerate(stated):
        for thing in scene.things:
            if thing.word:
                hits["word"].append(judge.word(reading)[i] == thing.word)
                continue
            column = judge.nouns.index(thing.noun)
            seen = reading.nouns[i, column] > FOUND
            by_size[thing.size or "medium"].append(bool(seen))
            colours = [*judge.colours, None]
            hits["colour"].append(colours[reading.colours[i, column].argmax()] == thing.colour)
            hits["style"].append(judge.styles[reading.styles[i, column].argmax()] == thing.style)
            if not seen:
                extra = np.flatnonzero(found[i] & ~truth[i] & ~excused[i])
                confused.update(f"{thing.noun} as {known[wrong]}" for wrong in extra)
    return {
        "recall_mean_per_noun": float((both / truth.sum(0)).mean()),
        "recall_worst_noun": float((both / truth.sum(0)).min()),
        "precision_mean_per_noun": float((both / np.maximum(claimed, 1)).mean()),
        "precision_worst_noun": float((both / np.maximum(claimed, 1)).min()),
        **{name: share(some) for name, some in hits.items()},
        **{f"recall_of_{size}_objects": share(some) for size, some in by_size.items()},
        **mixture_quality(judge),
        "pictures": scenes,
        "most_confused": dict(confused.most_common(8)),
    }


def _kin(first: str, second: str) -> bool:
    """Is one of the two an object near to the other, or are both near to one noun?"""
    near = {c["name"]: c["superclass"] for c in world_words()["concepts"] if "icons" in c}
    return first != second and near.get(first, first) == near.get(second, second)


def mixture_quality(judge: Judge, pictures: int = 400, seed: int = 109) -> dict:
    """Mixtures made as in the judge's training found, and whole objects taken for mixtures."""
    rng = np.random.default_rng(seed)
    made, whole = [], []
    for _ in range(pictures):
        scene = sample_scene(rng, (1.0, 0.0, 0.0, 0.0))
        picture, boxes = draw(scene, rng)
        other = other_noun(scene, list(world_words()["nouns"]), rng)
        mixed = mixed_picture(picture, boxes[0], other, rng)
        pair = scene.things[0].noun, other.noun
        made.append(bool(judge.mixed(judge.read(mixed[None]), *pair)[0]))
        whole.append(bool(judge.mixed(judge.read(picture[None]), *pair)[0]))
    return {"mixture_found": share(made), "whole_object_taken_for_mixture": share(whole)}


@torch.no_grad()
def text_quality(pair: ContrastivePair, pipe: StableDiffusionPipeline, seed: int = 102) -> dict:
    """Zero-shot noun accuracy on held-out single objects; retrieval@1, text to picture, of 256.

    Zero-shot with "a photo of a NOUN", on all pictures and on those in natural colours alone,
    because the plain sentence speaks of an untinted object.
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


def of_nouns(rng: np.random.Generator, nouns: Sequence[str], count: int) -> list[Scene]:
    """Scenes of different nouns side by side, nothing else stated, each pair in both orders."""
    scenes = []
    for _ in range(count // 2):
        pair = [str(noun) for noun in rng.choice(list(nouns), size=2, replace=False)]
        scenes += [Scene(tuple(Thing(n) for n in order), "and") for order in (pair, pair[::-1])]
    return scenes


def prompt_sets(each: int, seed: int = 103) -> dict[str, list[Scene]]:
    """Fresh prompts of each kind of the card, nothing stated that the kind does not ask for."""
    rng = np.random.default_rng(seed)
    words = world_words()
    animals, colours = words["animals"], list(words["colours"])
    things = [noun for noun in words["nouns"] if noun not in animals]
    unlike = []
    for _ in range(each // 2):
        pair = [str(rng.choice(animals)), str(rng.choice(things))]
        unlike += [Scene(tuple(Thing(n) for n in order), "and") for order in (pair, pair[::-1])]
    bound = []
    for _ in range(each):
        nouns = rng.choice(list(words["nouns"]), size=2, replace=False)
        named = rng.choice(colours[:7], size=2, replace=False)
        pair = tuple(Thing(str(n), str(c)) for n, c in zip(nouns, named, strict=True))
        bound.append(Scene(pair, "and"))

    single = [Scene((Thing(str(n)),)) for n in rng.choice(list(words["nouns"]), each)]
    coloured = [
        Scene((Thing(str(rng.choice(list(words["nouns"]))), str(rng.choice(colours[:7]))),))
        for _ in range(each)
    ]
    styled = []
    for _ in range(each):
        noun = str(rng.choice(list(words["nouns"])))
        styled.append(Scene((Thing(noun, style=str(rng.choice(trained_styles(noun)))),)))
    related = []
    for _ in range(each):
        nouns = rng.choice(list(words["nouns"]), size=2, replace=False)
        relation = str(rng.choice(["left of", "above"]))
        related.append(Scene(tuple(Thing(str(n)) for n in nouns), relation))
    three = []
    for _ in range(each):
        nouns = rng.choice(list(words["nouns"]), size=3, replace=False)
        three.append(Scene(tuple(Thing(str(n)) for n in nouns), "and"))
    return {
        "one_object": single,
        "colour_of_one": coloured,
        "style_of_one": styled,
        "two_unlike": unlike,
        "two_animals": of_nouns(rng, animals, each),
        "two_colours": bound,
        "two_related": related,
        "three_objects": three,
    }


def drawn_shares(pipe: StableDiffusionPipeline, judge: Judge, each: int = 64) -> dict[str, float]:
    """The shares that choose among trainings: asked objects all there, by kind of prompt."""
    sets = prompt_sets(each, seed=113)
    kinds = ("one_object", "two_unlike", "two_animals", "three_objects")
    return {
        kind.replace("_", " "): float(
            np.mean(judge_scenes(draw_scenes(pipe, sets[kind]), sets[kind], judge)["present"])
        )
        for kind in kinds
    }


def drawing_quality(
    pipe: StableDiffusionPipeline, judge: Judge, each: int
) -> tuple[dict, list[tuple[Scene, np.ndarray]]]:
    """What the U-Net draws of what it is asked, by the judge (and, for words, a real OCR engine).

    Args:
        each: Fresh prompts of each kind.
    Returns:
        The shares by name, and the first pictures of each kind that lack something asked for.
    """
    result: dict = {}
    failures = []
    for name, scenes in prompt_sets(each).items():
        pictures = draw_scenes(pipe, scenes)
        judged = judge_scenes(pictures, scenes, judge)
        missed = [i for i, right in enumerate(judged["present"]) if not right]
        failures += [(scenes[i], pictures[i]) for i in missed[:SHOWN_FAILURES]]
        result[f"{name}_present"] = share(judged["present"])
        for kind in ("coloured", "styled", "relation"):
            if judged[kind]:
                result[f"{name}_{kind}"] = share(judged[kind])
        if name in ("two_unlike", "two_animals"):
            result |= outcome_shares(name, judge, pictures, scenes)
    result |= sign_quality(pipe, judge, each)
    result |= layout_spread(pipe, judge)
    return result, failures


def outcome_shares(
    name: str, judge: Judge, pictures: np.ndarray, scenes: Sequence[Scene]
) -> dict[str, dict]:
    """Shares of every outcome of two objects, and how many times as often the first stays."""
    seen = []
    for picture, scene in zip(pictures, scenes, strict=True):
        first, second = (thing.noun for thing in scene.things)
        seen += judge.outcomes(judge.read(picture[None]), first, second)
    result = {
        f"{name}_outcome_{kind.value.replace(' ', '_')}": share([kind == each for each in seen])
        for kind in PairOutcome
    }
    alone = [each for each in seen if each in (PairOutcome.only_first, PairOutcome.only_second)]
    if alone:  # of the pictures with one object alone, those whose object was named first
        result[f"{name}_first_word_kept"] = share([e == PairOutcome.only_first for e in alone])
    return result


def sign_quality(pipe: StableDiffusionPipeline, judge: Judge, each: int) -> dict[str, dict]:
    """Words of signs, read by the judge and by the OCR engine, which also reads world pictures."""
    known = world_words()["words"]
    signs = [Scene((Thing("sign", word=known[i % len(known)]),)) for i in range(each)]
    pictures = draw_scenes(pipe, signs)
    asked = [scene.things[0].word for scene in signs]
    judged = judge.word(judge.read(pictures))
    read = [read_ocr(picture) for picture in pictures]
    # The ceiling: the same engine on the world's own signs.
    rng = np.random.default_rng(107)
    real = [read_ocr(render(scene, rng)) for scene in signs[:CEILING]]
    return {
        "sign_word_judge": share([a == b for a, b in zip(asked, judged, strict=True)]),
        "sign_word_ocr": share([a == b for a, b in zip(asked, read, strict=True)]),
        "sign_word_ocr_on_world_pictures": share(
            [a == b for a, b in zip(asked[:CEILING], real, strict=True)]
        ),
    }


def layout_spread(
    pipe: StableDiffusionPipeline, judge: Judge, prompts: int = 24, seeds: int = 12
) -> dict[str, dict]:
    """How far an object's centre lies from its mean over seeds, in pixels, mean over prompts."""
    rng = np.random.default_rng(108)
    scenes = prompt_sets(prompts, seed=int(rng.integers(1 << 30)))["one_object"]
    pictures = generate(pipe, [caption(scene) for scene in scenes], list(range(seeds)))
    spreads = []
    for scene, drawn in zip(scenes, pictures, strict=True):
        reading = judge.read(drawn)
        column = judge.nouns.index(scene.things[0].noun)
        there = reading.centres[reading.nouns[:, column] > FOUND, column]
        if len(there) > 1:
            spreads.append(float(np.linalg.norm(there - there.mean(0), axis=1).mean()))
    low, high = DescrStatsW(spreads).tconfint_mean()
    figure = {"value": float(np.mean(spreads)), "interval": [float(low), float(high)]}
    return {"spread_of_centres_in_pixels": figure | {"n": len(spreads)}}


def draw_scenes(pipe: StableDiffusionPipeline, scenes: Sequence[Scene]) -> np.ndarray:
    """One picture per scene: uint8 `[scene, 64, 64, 3]`; sixteen in turn share a seed."""
    groups = [scenes[start : start + 16] for start in range(0, len(scenes), 16)]
    drawn = [
        generate(pipe, [caption(scene) for scene in group], [1000 + number])[:, 0]
        for number, group in enumerate(groups)
    ]
    return np.concatenate(drawn)


def judge_scenes(
    pictures: np.ndarray, scenes: Sequence[Scene], judge: Judge
) -> dict[str, list[bool]]:
    """Per scene: all nouns there; all there with their colours, with their styles, as related."""
    reading = judge.read(pictures)
    kinds = ("present", "coloured", "styled", "relation")
    result: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for i, scene in enumerate(scenes):
        columns = [judge.nouns.index(thing.noun) for thing in scene.things]
        present = all(reading.nouns[i, column] > FOUND for column in columns)
        result["present"].append(present)
        if any(thing.colour for thing in scene.things):
            seen = [[*judge.colours, None][reading.colours[i, c].argmax()] for c in columns]
            right = all(t.colour in (None, s) for t, s in zip(scene.things, seen, strict=True))
            result["coloured"].append(present and right)
        if any(thing.style for thing in scene.things):
            seen = [judge.styles[reading.styles[i, c].argmax()] for c in columns]
            right = all(t.style in (None, s) for t, s in zip(scene.things, seen, strict=True))
            result["styled"].append(present and right)
        if scene.relation in ("left of", "above"):
            (x0, y0), (x1, y1) = reading.centres[i, columns[:2]]
            holds = x0 < x1 if scene.relation == "left of" else y0 < y1
            result["relation"].append(bool(present and holds))
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
        said = f"a photo of a {concept.placeholder_token}"
        made = generate(pipe, [said], list(range(drawn)))[0]
        for column, picture in enumerate([*concept.images, *made]):
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
    for place, (picture, said) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % columns * (tile + 8) + 4, place // columns * (tile + label)
        sheet.paste(Image.fromarray(picture).resize((tile, tile), Image.BICUBIC), (x, y))
        pen.rectangle([x, y, x + tile - 1, y + tile - 1], outline="#cccccc")
        pen.text((x, y + tile + 2), "\n".join(wrap(said, 22)), "black")
    return sheet


def token_quality(pipe: StableDiffusionPipeline, judge: Judge, seeds: Sequence[int]) -> dict:
    """What learned tokens draw and what they cost, beside their class words: a row per concept.

    Empty where no token of these weights is there yet. Sentences are those of the chapters
    (`hero` in `data/prompts/prompts.yaml`); intervals are over concepts.
    """
    sets = yaml.safe_load((DATA / "prompts" / "prompts.yaml").read_text())
    sentences = [Sentence(entry["text"], tuple(entry["context"])) for entry in sets["hero"]]
    rows = []
    for folder in sorted(TOKENS.glob("*/provenance.json")):
        inversion = load(folder.parent)
        concept = inversion.concept
        fitting = inversion.provenance.get("model") == profiles.fingerprint(profiles.get("toybox"))
        if concept.kind != "object" or not fitting:
            continue
        attach(pipe, inversion)
        token, plain = (
            measure(pipe, judge, word, concept.name, sentences, seeds, num_inference_steps=15)
            for word in (concept.placeholder_token, concept.superclass)
        )
        rows.append(
            {
                "concept": concept.name,
                "group": "development" if concept.development else "held-out",
                "alone": float(token.alone.mean()),
                "alike": float(token.alike.mean()),
                "among": float(token.among.mean()),
                "lost": float(token.lost_objects.mean()),
                "class_word_alone": float(plain.alone.mean()),
                "class_word_among": float(plain.among.mean()),
                "class_word_lost": float(plain.lost_objects.mean()),
                "lost_minus_class_word": float((token.lost_objects - plain.lost_objects).mean()),
            }
        )
    result: dict = {"concepts": rows}
    for group in ("held-out", "development"):
        some = pd.DataFrame([row for row in rows if row["group"] == group])
        for column in () if some.empty else some.columns[2:]:
            low, high = DescrStatsW(some[column]).tconfint_mean()
            result[f"{group}: {column}"] = {
                "value": float(some[column].mean()), "interval": [float(low), float(high)],
                "n": len(some),
            }  # fmt: skip
    if rows:
        drawn = [row["alone"] >= 0.8 and row["alike"] >= 0.6 for row in rows]
        result["concepts drawn alone with style and colour"] = share(drawn)
    return result


def main() -> None:
    """Measure everything and write the figures, the sheets and the card."""
    profile = profiles.get("toybox")
    pipe, judge = profiles.load(profile), load_judge()
    drawing, failures = drawing_quality(pipe, judge, each=128)
    quality = {
        "weights": profiles.fingerprint(profile),
        "judge": judge_quality(judge),
        "text_encoder": text_quality(load_pair(pipe), pipe) | bos_attention(pipe),
        "drawing": drawing,
        "tokens": token_quality(pipe, judge, range(2)),
    }
    (TOYBOX / "quality.json").write_text(json.dumps(quality, indent=1) + "\n")
    contact_sheet(pipe).save(TOYBOX / "contact_sheet.png", optimize=True)
    world_sheet().save(TOYBOX / "world.png", optimize=True)
    asked = [caption(scene) for scene, _ in failures]
    sheet = captioned_sheet([picture for _, picture in failures], asked)
    sheet.save(TOYBOX / "failures.png", optimize=True)
    concept_sheet(pipe).save(TOYBOX / "concepts.png", optimize=True)
    write_card(pipe, quality)
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
