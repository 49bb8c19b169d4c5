"""What the toybox draws of what it is asked, by kind of prompt, as the judge sees it.

Shown in: book/toybox.md
"""

from collections.abc import Sequence

import numpy as np
from diffusers import StableDiffusionPipeline

from t2i_lens.judging import ocr
from t2i_lens.probes.sampling import generate
from t2i_lens.toybox.judge import FOUND, Judge, Outcome
from t2i_lens.toybox.quality.intervals import mean, share
from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, Thing, render, trained_styles

CEILING = 96  # world signs read by OCR
SHOWN_FAILURES = 6  # of each kind of prompt


def drawing_quality(
    pipe: StableDiffusionPipeline, judge: Judge, count: int
) -> tuple[dict, list[tuple[Scene, np.ndarray]]]:
    """What the U-Net draws of what it is asked, by the judge (and, for words, a real OCR engine).

    Args:
        count: Fresh prompts of each kind.
    Returns:
        The shares by name, and the first pictures of each kind that lack something asked for.
    """
    result: dict = {}
    failures = []
    for name, scenes in prompt_sets(count).items():
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
    result |= sign_quality(pipe, judge, count)
    result |= layout_spread(pipe, judge)
    return result, failures


def prompt_sets(count: int, seed: int = 103) -> dict[str, list[Scene]]:
    """Fresh prompts of each kind of the card, nothing stated that the kind does not ask for."""
    rng = np.random.default_rng(seed)
    words = world_words()
    animals, colours = words["animals"], list(words["colours"])
    things = [noun for noun in words["nouns"] if noun not in animals]
    unlike = []
    for _ in range(count // 2):
        pair = [str(rng.choice(animals)), str(rng.choice(things))]
        unlike += [Scene(tuple(Thing(n) for n in order), "and") for order in (pair, pair[::-1])]
    bound = []
    for _ in range(count):
        nouns = rng.choice(list(words["nouns"]), size=2, replace=False)
        pair_colours = rng.choice(colours[:7], size=2, replace=False)
        pair = tuple(Thing(str(n), str(c)) for n, c in zip(nouns, pair_colours, strict=True))
        bound.append(Scene(pair, "and"))

    single = [Scene((Thing(str(n)),)) for n in rng.choice(list(words["nouns"]), count)]
    coloured = [
        Scene((Thing(str(rng.choice(list(words["nouns"]))), str(rng.choice(colours[:7]))),))
        for _ in range(count)
    ]
    styled = []
    for _ in range(count):
        noun = str(rng.choice(list(words["nouns"])))
        styled.append(Scene((Thing(noun, style=str(rng.choice(trained_styles(noun)))),)))
    related = []
    for _ in range(count):
        nouns = rng.choice(list(words["nouns"]), size=2, replace=False)
        relation = str(rng.choice(["left of", "above"]))
        related.append(Scene(tuple(Thing(str(n)) for n in nouns), relation))
    three = []
    for _ in range(count):
        nouns = rng.choice(list(words["nouns"]), size=3, replace=False)
        three.append(Scene(tuple(Thing(str(n)) for n in nouns), "and"))
    return {
        "one_object": single,
        "colour_of_one": coloured,
        "style_of_one": styled,
        "two_unlike": unlike,
        "two_animals": of_nouns(rng, animals, count),
        "two_colours": bound,
        "two_related": related,
        "three_objects": three,
    }


def of_nouns(rng: np.random.Generator, nouns: Sequence[str], count: int) -> list[Scene]:
    """Scenes of different nouns side by side, nothing else stated, each pair in both orders."""
    scenes = []
    for _ in range(count // 2):
        pair = [str(noun) for noun in rng.choice(list(nouns), size=2, replace=False)]
        scenes += [Scene(tuple(Thing(n) for n in order), "and") for order in (pair, pair[::-1])]
    return scenes


def drawn_shares(pipe: StableDiffusionPipeline, judge: Judge, count: int = 64) -> dict[str, float]:
    """The shares that choose among trainings: asked objects all there, by kind of prompt."""
    sets = prompt_sets(count, seed=113)
    kinds = ("one_object", "two_unlike", "two_animals", "three_objects")
    return {
        kind.replace("_", " "): float(
            np.mean(judge_scenes(draw_scenes(pipe, sets[kind]), sets[kind], judge)["present"])
        )
        for kind in kinds
    }


def outcome_shares(
    name: str, judge: Judge, pictures: np.ndarray, scenes: Sequence[Scene]
) -> dict[str, dict]:
    """Shares of every outcome of two objects, and how many times as often the first stays."""
    outcomes = []
    for picture, scene in zip(pictures, scenes, strict=True):
        first, second = (thing.noun for thing in scene.things)
        outcomes += judge.outcomes(judge.read(picture[None]), first, second)
    result = {
        f"{name}_outcome_{kind.value.replace(' ', '_')}": share([kind == o for o in outcomes])
        for kind in Outcome
    }
    alone = [o for o in outcomes if o in (Outcome.only_first, Outcome.only_second)]
    if alone:  # of the pictures with one object alone, those whose object was named first
        result[f"{name}_first_word_kept"] = share([o == Outcome.only_first for o in alone])
    return result


def sign_quality(pipe: StableDiffusionPipeline, judge: Judge, count: int) -> dict[str, dict]:
    """Words of signs, read by the judge and by the OCR engine, which also reads world pictures."""
    known = world_words()["words"]
    signs = [Scene((Thing("sign", word=known[i % len(known)]),)) for i in range(count)]
    pictures = draw_scenes(pipe, signs)
    words = [scene.things[0].word for scene in signs]
    judged = judge.word(judge.read(pictures))
    read = [read_ocr(picture) for picture in pictures]
    # The ceiling: the same engine on the world's own signs.
    rng = np.random.default_rng(107)
    real = [read_ocr(render(scene, rng)) for scene in signs[:CEILING]]
    return {
        "sign_word_judge": share([a == b for a, b in zip(words, judged, strict=True)]),
        "sign_word_ocr": share([a == b for a, b in zip(words, read, strict=True)]),
        "sign_word_ocr_on_world_pictures": share(
            [a == b for a, b in zip(words[:CEILING], real, strict=True)]
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
        centres = reading.centres[reading.nouns[:, column] > FOUND, column]
        if len(centres) > 1:
            spreads.append(float(np.linalg.norm(centres - centres.mean(0), axis=1).mean()))
    return {"spread_of_centres_in_pixels": mean(spreads)}


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
            read = [[*judge.colours, None][reading.colours[i, c].argmax()] for c in columns]
            right = all(t.colour in (None, c) for t, c in zip(scene.things, read, strict=True))
            result["coloured"].append(present and right)
        if any(thing.style for thing in scene.things):
            read = [judge.styles[reading.styles[i, c].argmax()] for c in columns]
            right = all(t.style in (None, s) for t, s in zip(scene.things, read, strict=True))
            result["styled"].append(present and right)
        if scene.relation in ("left of", "above"):
            (x0, y0), (x1, y1) = reading.centres[i, columns[:2]]
            holds = x0 < x1 if scene.relation == "left of" else y0 < y1
            result["relation"].append(bool(present and holds))
    return result


def read_ocr(picture: np.ndarray) -> str:
    """Letters that a real OCR engine finds in a picture, lower case, joined."""
    return "".join(ocr.read_text(picture).lines).replace(" ", "")
