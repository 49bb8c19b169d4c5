"""Exchanging the word of a sign while it is drawn: pairs of prompts, ways, and what is read.

The same measurements serve the editing of words and the avoidance of unwanted ones: the judge reads
the old and the new word, an object and the ground; the change is that of the picture outside the
sign.

Shown in: notebooks/26_word_editing.ipynb
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice

import numpy as np
import pandas as pd
import yaml
from jaxtyping import UInt8
from rapidfuzz.distance import Levenshtein

from t2i_lens.base.paths import DATA
from t2i_lens.experiments.prompt_sets import SIMPLE, SignPrompt
from t2i_lens.experiments.sign_scenes import grounds, outside_signs
from t2i_lens.judging.ocr import read_texts
from t2i_lens.methods.localisation import Setting, draw_settings, random_sets
from t2i_lens.methods.prompt_to_prompt import Replacement, draw_replaced
from t2i_lens.methods.safe_guidance import CONFIGURATIONS, draw_safely
from t2i_lens.probes.edits import Inject, Value
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.stats import sign_metrics

SAMPLING = {"num_inference_steps": 10, "guidance_scale": 7.5}
SEEDS = (0, 1)
PARTNERS = 4  # words that each word is exchanged for
PAIRS_AT_SIZES = 48
SIZES = ((96, 96), (64, 96), (96, 64))  # height, width, beside the model's own
MOST_WORDS = 4  # in one text
CROSS, OWN = (0.2, 0.8, 1.0), (0.0, 0.4, 0.8)  # shares of steps of Prompt-to-Prompt
LATER = 1  # step from which the target prompt is fed in one more way
RANDOM_SETS = 2
NONE, LOCALISED, EVERY = "no edit", "localised layers", "all layers"
KEYS = ["way", "pair", "seed"]
KEYS_OF_PAIRS = ("source", "target")
READ_SEEDS = 1  # of the pictures that the OCR engine reads too


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in the text of a sign.

    Attributes:
        source: The prompt before.
        target: The prompt after.
        old: Text of the source's sign.
        new: Text of the target's sign.
        object: Noun that both state, if any.
        ground: Colour of the ground that both state, if any.
    """

    source: str
    target: str
    old: str
    new: str
    object: str | None = None
    ground: str | None = None


@dataclass(frozen=True)
class Way:
    """A way to bring a new word into a picture, or to keep the old one out.

    Attributes:
        name: Of it, in tables and figures.
        layers: Cross-attention layers that read the target prompt; none of them draws the source.
        start: First step at which they do.
        maps: Shares of the steps with the source's cross- and self-attention maps: Prompt-to-Prompt
            in place of an injection.
        plain: The target prompt is the plain sentence of a sign with the new word.
        negative: Text with a slot for the old word that takes the empty prompt's place.
        safe: Configuration of safe guidance away from a plain sign with the old word.
    """

    name: str
    layers: tuple[str, ...] = ()
    start: int = 0
    maps: tuple[float, float] | None = None
    plain: bool = False
    negative: str | None = None
    safe: str | None = None


def editing_ways(layers: Sequence[str], localised: Sequence[str]) -> list[Way]:
    """The target prompt in no, the localised, random and all layers, and Prompt-to-Prompt.

    Args:
        layers: All cross-attention layers.
        localised: Those of words.
    """
    ways = injections(layers, localised)
    later = Way(f"{LOCALISED}, from step {LATER}", tuple(localised), LATER)
    maps = [Way(f"P2P {cross:g}/{own:g}", maps=(cross, own)) for cross in CROSS for own in OWN]
    return [*ways, later, *maps]


def injections(layers: Sequence[str], localised: Sequence[str]) -> list[Way]:
    """The target prompt in no layer, in the localised, in random and in all layers."""
    sets = random_sets(layers, len(localised), RANDOM_SETS, 0, Setting(tuple(localised)))
    return [
        Way(NONE),
        Way(LOCALISED, tuple(localised)),
        Way(EVERY, tuple(layers)),
        *(Way(f"random layers {number}", s.layers) for number, s in enumerate(sets, start=1)),
    ]


def avoiding_ways(layers: Sequence[str], localised: Sequence[str]) -> list[Way]:
    """Ways to keep the old word out of the picture.

    Two of them read a plain sentence in place of the target prompt, which does not say the mood.
    """
    return [
        *injections(layers, localised),
        Way("negative prompt", negative=SIMPLE),
        Way("negative word", negative="{}"),
        *(Way(f"safe guidance, {name}", safe=name) for name in CONFIGURATIONS),
        Way(f"{LOCALISED}, plain sentence", tuple(localised), plain=True),
        Way(f"{EVERY}, plain sentence", tuple(layers), plain=True),
    ]


def sign_prompts(signs: Sequence[SignPrompt]) -> list[SignPrompt]:
    """Each word with the words that follow it on the list, in the templates of the signs in turn.

    Args:
        signs: Creative sign prompts: words and templates.
    """
    words, templates = [sign.source for sign in signs], [sign.template for sign in signs]
    frames = cycle(list(dict.fromkeys([SIMPLE, *templates])))
    return [
        SignPrompt(next(frames), old, words[(number + step) % len(words)])
        for step in range(1, PARTNERS + 1)
        for number, old in enumerate(words)
    ]


def editing_pairs(signs: Sequence[SignPrompt]) -> list[Pair]:
    """The pairs of `sign_prompts`."""
    return [_pair(sign.template, sign.source, sign.target) for sign in sign_prompts(signs)]


def longer_pairs(signs: Sequence[SignPrompt], count: int) -> list[Pair]:
    """Pairs whose signs hold `count` words, in the same templates as `editing_pairs`.

    The words of a source follow each other on the list, and so do those of its target, which begin
    as many words after the source's last as the single words of the pair lie apart: in one place no
    word stands for itself.
    """
    words = [sign.source for sign in signs]
    pairs = []
    for number, sign in enumerate(sign_prompts(signs)[:PAIRS_AT_SIZES]):
        first, further = number % len(words), number // len(words)
        of_text = list(islice(cycle(words), first, first + 2 * count + further))
        old, new = " ".join(of_text[:count]), " ".join(of_text[-count:])
        pairs.append(_pair(sign.template, old, new))
    return pairs


def unwanted_pairs() -> list[Pair]:
    """Each unwanted word in every sentence of `data/prompts/unwanted.yaml`, and its substitute."""
    stated = yaml.safe_load((DATA / "prompts" / "unwanted.yaml").read_text(encoding="utf-8"))
    words = list(zip(stated["unwanted"], stated["harmless"], strict=True))
    return [
        _pair(sentence["text"], old, new, sentence.get("object"), sentence.get("ground"))
        for sentence in stated["sentences"]
        for old, new in words
    ]


def _pair(frame: str, old: str, new: str, *mood: str | None) -> Pair:
    return Pair(frame.replace("{}", old), frame.replace("{}", new), old, new, *mood)


def draw(
    pipe, pairs: Sequence[dict], ways: Sequence[dict], seeds: Sequence[int], **sampling
) -> UInt8[np.ndarray, "way pair seed height width 3"]:
    """Draw pairs of prompts in several ways, all from the same latents.

    Args:
        pipe: Stable Diffusion 1 or 2; ways without safe guidance also work with XL.
        pairs: Fields of `Pair`.
        ways: Fields of `Way`.
        seeds: One latent each.
        sampling: Passed to `sampling.generate`.

    Raises:
        ValueError: as the methods that draw.
    """
    said, by = [Pair(**fields) for fields in pairs], [way_of(fields) for fields in ways]
    drawn = {}
    for plain in (False, True):
        injected = [way for way in by if way.plain == plain and _injects(way)]
        if injected:
            texts = [(p.source, SIMPLE.replace("{}", p.new) if plain else p.target) for p in said]
            settings = [Setting(way.layers, way.start) for way in injected]
            pictures = draw_settings(pipe, texts, settings, seeds, **sampling)["pictures"]
            drawn |= dict(zip(injected, pictures, strict=True))
    if replacing := [way for way in by if way.maps]:
        texts = [(p.source, p.target) for p in said]
        shares = [Replacement(*way.maps) for way in replacing]
        pictures = draw_replaced(pipe, texts, shares, seeds, **sampling)
        drawn |= dict(zip(replacing, pictures, strict=True))
    for way in by:
        if way.negative:
            drawn[way] = _draw_negative(pipe, said, way.negative, seeds, **sampling)
        elif way.safe:
            unwanted = [SIMPLE.replace("{}", pair.old) for pair in said]
            sources, safety = [pair.source for pair in said], CONFIGURATIONS[way.safe]
            drawn[way] = draw_safely(pipe, sources, unwanted, safety, seeds, **sampling)
    return np.stack([drawn[way] for way in by])


def _injects(way: Way) -> bool:
    return way.maps is None and way.negative is None and way.safe is None


def _draw_negative(pipe, pairs, text, seeds, **sampling):
    texts = [text.replace("{}", pair.old) for pair in pairs]
    states = map(Value, texts, text_states(pipe, texts))
    edits = [[Inject(value, branches=("unconditional",))] for value in states]
    return generate(pipe, [pair.source for pair in pairs], seeds, edits=edits, **sampling)


def way_of(fields: dict) -> Way:
    """A way again from its fields."""
    maps = fields["maps"]
    return Way(**fields | {"layers": tuple(fields["layers"]), "maps": maps and tuple(maps)})


def fields_of(things: Sequence[Pair | Way]) -> list[dict]:
    """Pairs or ways as `draw` takes them."""
    return [asdict(thing) for thing in things]


def measure(
    judge,
    pipe,
    pairs: Sequence[dict],
    ways: Sequence[dict],
    seeds: Sequence[int],
    read: Sequence[str] = (),
    **sampling,
) -> pd.DataFrame:
    """Draw pairs in several ways and read the pictures.

    Args:
        judge: The toybox's, which knows all words, objects and places of signs.
        ways: As for `draw`; `NONE` must be among them, the others are compared with it.
        read: Names of the ways that the OCR engine reads too, on the first `READ_SEEDS` seeds.

    Returns:
        See `table_of`.

    Raises:
        ValueError: as `draw`, or no picture to compare with.
    """
    return table_of(judge, draw(pipe, pairs, ways, seeds, **sampling), pairs, ways, seeds, read)


def table_of(
    judge, pictures, pairs: Sequence[dict], ways: Sequence[dict], seeds: Sequence[int], read=()
) -> pd.DataFrame:
    """What is read in the pictures of `draw`.

    Returns:
        A row per way, pair and seed: `KEYS`; `old` and `new`, the judge's probability of each word;
        `object`, that of the stated object, and `ground`, whether the ground has the stated colour,
        nan where none is stated; `background`, mean squared error outside the sign of the picture
        without an edit, `error` and `wrapped` (as published) over all pixels, in grey levels
        squared, and `ssim`, all against the picture without an edit; where the OCR engine reads,
        `text`, `precision` and `recall` of its letters, `word_f1` and `distance`, all for the new
        word, and `old_precision` and `old_recall` for the old one.

    Raises:
        ValueError: no picture without an edit.
    """
    names = [way["name"] for way in ways]
    if NONE not in names:
        raise ValueError(f"pictures are compared with those of the way {NONE!r}: draw it too")
    table = pd.DataFrame(
        [(name, pair, seed) for name in names for pair in range(len(pairs)) for seed in seeds],
        columns=KEYS,
    )
    said = [pairs[number] for number in table["pair"]]
    table["source"], table["target"] = ([pair[key] for pair in said] for key in KEYS_OF_PAIRS)
    flat = pictures.reshape(-1, *pictures.shape[3:])
    table = table.assign(**_judged(judge, flat, said))
    table = table.assign(**_changes(judge, pictures[names.index(NONE)], pictures))
    is_read = table["way"].isin(read) & table["seed"].isin(list(seeds)[:READ_SEEDS])
    if not is_read.any():
        return table
    chosen = np.flatnonzero(is_read)
    texts = _texts(flat[chosen], [said[row] for row in chosen])
    return table.join(pd.DataFrame(texts, index=table.index[chosen]))


def _judged(judge, pictures: np.ndarray, pairs: Sequence[dict]) -> dict[str, np.ndarray]:
    reading, rows = judge.read(pictures), np.arange(len(pictures))
    found = {
        word: reading.words[rows, [judge.words.index(pair[word]) for pair in pairs]]
        for word in ("old", "new")
    }
    columns = [judge.nouns.index(pair["object"] or judge.nouns[0]) for pair in pairs]
    states = np.array([pair["object"] is not None for pair in pairs])
    found["object"] = np.where(states, reading.nouns[rows, columns], np.nan)
    colours = np.array([pair["ground"] or "" for pair in pairs])
    found["ground"] = np.where(colours != "", grounds(pictures) == colours, np.nan)
    return found


def _changes(judge, source: np.ndarray, pictures: np.ndarray) -> dict[str, np.ndarray]:
    before = np.broadcast_to(source, pictures.shape).reshape(-1, *pictures.shape[3:])
    after = pictures.reshape(before.shape)
    keep = outside_signs(judge, source)
    alike = [sign_metrics.ssim(a, b) for a, b in zip(before, after, strict=True)]
    return {
        "background": sign_metrics.true_error(source, pictures, keep).ravel(),
        "error": sign_metrics.true_error(source, pictures).ravel(),
        "wrapped": sign_metrics.wrapped_error(source, pictures).ravel(),
        "ssim": np.array(alike),
    }


def _texts(pictures: np.ndarray, pairs: Sequence[dict]) -> list[dict]:
    rows = []
    for reading, pair in zip(read_texts(pictures), pairs, strict=True):
        text = " ".join(reading.lines)
        precision, recall = sign_metrics.precision_recall(text, pair["old"])
        old = {"old_precision": precision, "old_recall": recall}
        rows.append({"text": text} | _scores(text, pair["new"]) | old)
    return rows


def _scores(text: str, wanted: str) -> dict[str, float]:
    precision, recall = sign_metrics.precision_recall(text, wanted)
    return {
        "precision": precision,
        "recall": recall,
        "word_f1": sign_metrics.word_f1(text, wanted),
        "distance": float(Levenshtein.distance(text, wanted)),
    }


def read(
    pipe, pairs: Sequence[dict], ways: Sequence[dict], seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw pairs, of any size and with texts of any length, and read them with the OCR engine.

    Args:
        sampling: With `height` and `width`, which are kept in the table.

    Returns:
        A row per way, pair and seed: `KEYS`, `height`, `width`, `words` (how many the text has);
        `text` as read, `precision` and `recall` of its letters, `word_f1` and `distance`, all for
        the new text; `exact`, whether all words of the new text are read.
    """
    pictures = draw(pipe, pairs, ways, seeds, **sampling)
    readings = read_texts(pictures.reshape(-1, *pictures.shape[3:]))
    rows = []
    for (way, pair, seed), reading in zip(np.ndindex(*pictures.shape[:3]), readings, strict=True):
        text, wanted = " ".join(reading.lines), pairs[pair]["new"]
        rows.append(
            {
                "way": ways[way]["name"], "pair": pair, "seed": seeds[seed],
                "height": pictures.shape[3], "width": pictures.shape[4],
                "words": len(wanted.split()), "target": pairs[pair]["target"], "text": text,
                "exact": float(set(wanted.split()) <= set(text.split())),
            }
            | _scores(text, wanted)
        )  # fmt: skip
    return pd.DataFrame(rows)
