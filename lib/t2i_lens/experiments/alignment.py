"""Test-time optimisation of latents against its baselines: what the pictures show of their prompts.

Every method draws the same annotated sentences, in both orders of their words, from the same
latents. The judge answers questions about each picture, in TIFA's manner (Hu et al., 2303.11897);
the outcomes are those of "A Cat Is A Cat" (2024), the bindings those of SynGen (2306.08877).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from scipy.ndimage import label

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.experiments.prompt_attention import untrained_encoder
from t2i_lens.experiments.prompt_sets import PairedPrompt
from t2i_lens.experiments.word_pairs import SWAPPED_JOINT, exchanged
from t2i_lens.judging.protocols import FOUND
from t2i_lens.methods import attention_losses as losses
from t2i_lens.methods.latent_optimisation import Trace, Updates, draw_optimised
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import read_ids, tsam_matrix, tsam_matrix_as_released

SAMPLING = {"num_inference_steps": 12, "guidance_scale": 7.5}
UPDATED = 4  # steps with an update: a third of the drawing
DECAY = 0.5  # of the step size's square over all steps, as published
SEEDS = (0, 1)
TOGETHER = 24  # sentences in a part of the sweep
SENTENCES = {"animals": 16, "animals_objects": 12, "objects": 12, "relations": 8}
OUTCOMES = (
    "both", "first and a mixture", "second and a mixture", "only a mixture", "only first",
    "only second", "none",
)  # fmt: skip
# Step sizes as published for prompts of two objects, and the multiples that are tried.
PUBLISHED = {"paper": 10.0, "code": 5.0, "attend-and-excite": 20.0, "SynGen": 20.0}
MULTIPLES = (1, 3, 9)
TRIED = 3  # sentences of each set for the choice of a multiple, which no result uses
TRIED_SEEDS = (100, 101)
KINDS = ("animal", "object", "colour", "relation", "count")  # of questions
KEYS = ["method", "sentence", "order", "seed"]
# A picture drawn in another batch differs by rounding, which updates can enlarge in single ones.
TOLERANCES = {"doubt": 0.05}
FILE, TRIALS = "methods.parquet", "step_sizes.parquet"


@dataclass(frozen=True)
class Method:
    """A way to draw a prompt.

    Attributes:
        name: Of it, in tables and figures.
        loss: Key of `PUBLISHED`; None draws without optimisation.
        multiple: Of the published step size; 0 moves nothing.
        target: T that T-SAM follows: of the prompt itself ("own"), of an encoder with random
            weights ("untrained"), the identity ("identity"), or of the same sentence with the
            class word in its slot ("class word").
        random: Whether the moves have a random direction and the gradient's length.
    """

    name: str
    loss: str | None = None
    multiple: float = 1.0
    target: str = "own"
    random: bool = False

    @property
    def updates(self) -> Updates:
        return Updates(PUBLISHED[self.loss] * self.multiple, UPDATED, DECAY)


@dataclass(frozen=True)
class Sentence:
    """An annotated sentence of a set, in one order of its words.

    Attributes:
        plain: The same sentence with the class word in its slot, if it has one.
    """

    set: str
    number: int
    order: int
    text: str
    bound: tuple[tuple[str, str], ...]
    unbound: tuple[tuple[str, str], ...]
    relation: str | None = None
    plain: str = ""

    @property
    def nouns(self) -> list[str]:
        """In reading order."""
        attributes = {attribute for attribute, _ in self.bound}
        words = dict.fromkeys(w for pair in (*self.bound, *self.unbound) for w in pair)
        return sorted((w for w in words if w not in attributes), key=self.text.split().index)


def methods(multiples: dict[str, float]) -> list[Method]:
    """The plain model, T-SAM with both losses, its baselines, and controls of T-SAM.

    Args:
        multiples: Loss -> multiple of its published step size, from `chosen_multiples`.
    """
    paper = multiples["paper"]
    return [
        Method("plain"),
        Method("T-SAM, paper", "paper", paper),
        Method("T-SAM, code", "code", multiples["code"]),
        Method("Attend-and-Excite", "attend-and-excite", multiples["attend-and-excite"]),
        Method("SynGen", "SynGen", multiples["SynGen"]),
        Method("random direction", "paper", paper, random=True),
        Method("T of an untrained encoder", "paper", paper, "untrained"),
        Method("S to the identity", "paper", paper, "identity"),
    ]


def sentences(sets: dict[str, Sequence[PairedPrompt]]) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences of the comparison in both orders, and others to choose step sizes on.

    Args:
        sets: Name in `SENTENCES` -> all its prompts; those that "and" joins are taken, and every
            relation, which is in its set in both orders.
    """
    taken, tried = [], []
    for name, count in SENTENCES.items():
        orders = _orders(sets[name], related=name == "relations")
        places = np.linspace(0, len(orders) - 1, count).round().astype(int).tolist()
        rest = [place for place in range(len(orders)) if place not in places]
        for place in places:
            taken += [_sentence(name, place, o, p) for o, p in enumerate(orders[place])]
        for place in rest[:: max(1, len(rest) // TRIED)][:TRIED]:
            tried.append(_sentence(name, place, 0, orders[place][0]))
    return taken, tried


def _orders(prompts: Sequence[PairedPrompt], related: bool) -> list[tuple]:
    if related:
        return list(zip(prompts[::2], prompts[1::2], strict=True))
    joined = [prompt for prompt in prompts if SWAPPED_JOINT in prompt.text]
    return [(prompt, exchanged(prompt)) for prompt in joined]


def _sentence(name: str, number: int, order: int, prompt: PairedPrompt) -> Sentence:
    return Sentence(name, number, order, prompt.text, prompt.bound, prompt.unbound, prompt.relation)


def losses_of(pipe, asked: Sequence[Sentence], method: Method) -> list[losses.Loss]:
    """Each sentence's loss under a method.

    Raises:
        ValueError: as `attention_losses.words_of_pairs`, or a target of another length.
    """
    found = []
    for sentence in asked:
        row = encode(pipe, sentence.text)
        nouns, phrases = losses.words_of_pairs(row, sentence.bound, sentence.unbound)
        if method.loss == "attend-and-excite":
            found.append(losses.AttendExcite(nouns))
        elif method.loss == "SynGen":
            found.append(losses.SynGen(phrases, row.eos))
        else:
            kind = losses.TsamPaper if method.loss == "paper" else losses.TsamCode
            found.append(kind(target(pipe, sentence, method)))
    return found


def target(pipe, sentence: Sentence, method: Method) -> torch.Tensor:
    """T that a method follows for a sentence, [token, token], BOS and EOS dropped.

    Raises:
        ValueError: the class-word sentence has another number of tokens.
    """
    row = read = encode(pipe, sentence.text)
    if method.target == "identity":
        return torch.eye(row.eos - 1)
    encoder = pipe.text_encoder
    if method.target == "untrained":
        encoder = untrained_encoder(encoder, 0)
    elif method.target == "class word":
        read = encode(pipe, sentence.plain)
    if read.eos != row.eos:
        raise ValueError(f"{read.prompt!r} and {row.prompt!r} differ in their numbers of tokens")
    pattern = read_ids(encoder, torch.tensor([read.ids])).patterns[0].float().cpu()
    make = tsam_matrix if method.loss == "paper" else tsam_matrix_as_released
    return make(pattern, read.eos)


def draw(
    pipe, asked: Sequence[Sentence], method: Method, seeds: Sequence[int], **drawing
) -> tuple[UInt8[np.ndarray, "sentence seed height width 3"], list[Trace]]:
    """Draw sentences under a method; the traces are empty where nothing is optimised."""
    texts = [sentence.text for sentence in asked]
    if method.loss is None:
        return generate(pipe, texts, list(seeds), **drawing), []
    moved = losses_of(pipe, asked, method)
    return draw_optimised(
        pipe, texts, moved, seeds, method.updates, random=method.random, **drawing
    )


def measure(
    pipe, judge, clip, asked: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> pd.DataFrame:
    """Draw sentences under one method and answer the questions about every picture.

    `answers` of `drawn`.

    Args:
        judge: As for `answers`, and clip.
        asked: Fields of `Sentence`.
        method: Fields of `Method`.
        seeds: One latent each.
        sampling: Passed to `sampling.generate`.

    Raises:
        ValueError: as `losses_of` and `sampling.generate`.
    """
    of = drawn(pipe, asked, method, seeds, **sampling)
    return answers(pipe, judge, clip, asked, method, seeds, of)


def drawn(
    pipe, asked: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Draw sentences under one method.

    Args:
        As in `measure`.

    Returns:
        `pictures`, uint8 [sentence, seed, height, width, 3]; by picture, seeds fastest: `calls`,
        the U-Net's forward passes, and `backward`; `moved`, the mean length of a step's move over
        that of the latents.

    Shown in: notebooks/19_tsam_optimisation.ipynb
    """
    said = [sentence_of(fields) for fields in asked]
    pictures, traces = draw(pipe, said, Method(**method), seeds, **sampling)
    return {"pictures": pictures} | costs(traces, len(said) * len(seeds), **sampling)


def answers(
    pipe, judge, clip, asked: Sequence[dict], method: dict, seeds: Sequence[int],
    drawn: dict[str, np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    """The judge's answers about the pictures of `drawn`.

    Args:
        judge: Tells outcomes, colours and places, as the toybox's.
        clip: Text encoder and picture tower, with `embed_text` and `embed_pictures`.

    Returns:
        A row per sentence and seed: `KEYS`, `set` and `number`; `outcome`; `found`, nouns in the
        picture, and `lost`, those that are not; `doubt`, 1 minus their mean probability; `proper`,
        `improper` and `neglected`, numbers of bound pairs; for each of `KINDS` the questions asked
        and those answered right (`animal asked`, `animal right`); `right`, whether all but the
        count are; `similarity` of picture and text in [-1, 1], and `least` of the halves of the
        text; the numbers by picture of `drawn`.

    Shown in: notebooks/19_tsam_optimisation.ipynb
    """
    said = [sentence_of(fields) for fields in asked]
    owners = [sentence for sentence in said for _ in seeds]
    flat = drawn["pictures"].reshape(-1, *drawn["pictures"].shape[2:])
    reading = judge.read(flat)
    rows = [
        {"method": method["name"], "set": s.set, "number": s.number, "sentence": s.text,
         "order": s.order, "seed": seeds[place % len(seeds)]} | answered(judge, reading, place, s)
        for place, s in enumerate(owners)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["similarity"], table["least"] = _similarity(pipe, clip, flat, owners)
    return table.assign(**{name: drawn[name] for name in ("calls", "backward", "moved")})


def costs(
    traces: Sequence[Trace], pictures: int, *, num_inference_steps: int, guidance_scale: float
) -> dict[str, np.ndarray]:
    """`calls`, `backward` and `moved` of `measure`, of each picture."""
    passes = np.concatenate([t.passes for t in traces]) if traces else np.zeros(pictures, int)
    steps = num_inference_steps * (2 if guidance_scale > 1 else 1)
    moves = [torch.stack(t.moved).mean(0).numpy() for t in traces if t.moved]
    moved = np.concatenate(moves).astype(float) if moves else np.zeros(pictures)
    return {"calls": steps + passes, "backward": passes, "moved": moved}


def sentence_of(fields: dict) -> Sentence:
    """A sentence again from its fields."""
    pairs = {name: tuple(map(tuple, fields[name])) for name in ("bound", "unbound")}
    return Sentence(**fields | pairs)


def answered(judge, reading, place: int, sentence: Sentence) -> dict:
    """The judge's answers about one picture of a sentence, see `measure`.

    Args:
        reading: Of all pictures.
        place: Of the picture among them.
    """
    columns = [judge.nouns.index(noun) for noun in sentence.nouns]
    chance = reading.nouns[place, columns]
    there = dict(zip(sentence.nouns, chance > FOUND, strict=True))
    colours = {noun: judge.colour(reading, noun)[place] for _, noun in sentence.bound}
    proper = [there[noun] and colours[noun] == colour for colour, noun in sentence.bound]
    neglected = [not there[noun] for _, noun in sentence.bound]
    first, second = sentence.nouns[:2]
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for position, noun in enumerate(sentence.nouns):
        right[_kind(sentence, position)].append(there[noun])
        right["count"].append(_pieces(reading.places[place, :, judge.nouns.index(noun)]) == 1)
    right["colour"] = proper
    if sentence.relation:
        centres = reading.centres[place, columns[:2]]
        holds = _holds(sentence.relation, *centres)
        right["relation"] = [all(there.values()) and holds]
    whole = [answer for kind in KINDS if kind != "count" for answer in right[kind]]
    counted = {f"{kind} asked": len(right[kind]) for kind in KINDS}
    counted |= {f"{kind} right": int(sum(right[kind])) for kind in KINDS}
    return {
        "outcome": str(judge.outcomes(reading, first, second)[place]),
        "found": int(sum(there.values())),
        "lost": int(len(there) - sum(there.values())),
        "doubt": float(1 - chance.mean()),
        "proper": int(sum(proper)),
        "neglected": int(sum(neglected)),
        "improper": len(proper) - int(sum(proper)) - int(sum(neglected)),
        "right": bool(all(whole)),
    } | counted


def _kind(sentence: Sentence, position: int) -> str:
    """An animal comes first in sentences about an animal and an object, and last when exchanged."""
    if sentence.set == "animals_objects":
        return "animal" if position == sentence.order else "object"
    return "animal" if sentence.set == "animals" else "object"


def _pieces(chance: np.ndarray) -> int:
    side = int(len(chance) ** 0.5)  # the judge's places are a square
    return label(chance.reshape(side, side) > FOUND)[1]


def _holds(relation: str, one: np.ndarray, other: np.ndarray) -> bool:
    x, y = other - one
    return bool({"left of": x > 0, "next to": abs(x) > abs(y)}.get(relation, y > 0))


@torch.no_grad()
def _similarity(pipe, clip, pictures: np.ndarray, owners: Sequence[Sentence]):
    """Cosine of each picture with its text, and the least with the parts around its joint."""
    seen = clip.embed_pictures(torch.from_numpy(pictures)).cpu()

    def with_texts(texts: Sequence[str]) -> np.ndarray:
        ids = torch.tensor([encode(pipe, text).ids for text in texts])
        return (seen * clip.embed_text(ids.to(pipe.device)).cpu()).sum(-1).numpy()

    joints = [f" {owner.relation or 'and'} " for owner in owners]
    halves = [owner.text.split(joint) for owner, joint in zip(owners, joints, strict=True)]
    least = np.minimum(*(with_texts([half[side] for half in halves]) for side in (0, 1)))
    return with_texts([owner.text for owner in owners]), least


def chosen_multiples(trials: pd.DataFrame) -> dict[str, float]:
    """For each loss the multiple whose trial pictures answer most questions, the smaller if equal.

    Args:
        trials: Of `measure`, with `method` named as in `trial_methods`.
    """
    scores = score(trials).groupby(trials["method"]).mean()
    return {
        loss: float(max(MULTIPLES, key=lambda m, loss=loss: (scores[f"{loss} x{m}"], -m)))
        for loss in PUBLISHED
    }


def trial_methods() -> list[Method]:
    """Each loss at each multiple of its published step size."""
    return [Method(f"{loss} x{m}", loss, m) for loss in PUBLISHED for m in MULTIPLES]


def score(table: pd.DataFrame) -> pd.Series:
    """Share of the questions about each picture that are answered as its sentence asks."""
    right = sum(table[f"{kind} right"] for kind in KINDS)
    return right / sum(table[f"{kind} asked"] for kind in KINDS)


def kind_scores(table: pd.DataFrame) -> pd.Series:
    """Share of right answers by kind of question, over all pictures."""
    found = {k: table[f"{k} right"].sum() / max(table[f"{k} asked"].sum(), 1) for k in KINDS}
    return pd.Series(found)


def marks(subjects: Sequence[Lazy], parts: dict[str, object]) -> dict[str, str]:
    """Hash of the weights and settings behind each part of a table.

    Args:
        subjects: Model, judge and others whose weights count.
        parts: Name -> what the part's rows depend on besides.
    """
    about = {
        "weights": [subject.fingerprint for subject in subjects],
        "sampling": SAMPLING, "updated": UPDATED, "decay": DECAY, "published": PUBLISHED,
    }  # fmt: skip
    return {
        name: digest(json.dumps(canonical(about | {"part": part})).encode())
        for name, part in parts.items()
    }


def fields_of(said: Sequence[Sentence]) -> list[dict]:
    """Sentences as `measure` takes them."""
    return [asdict(sentence) for sentence in said]


def carry_out(
    store: Cache,
    name: str,
    function: Callable[..., pd.DataFrame],
    subjects: dict[str, Lazy],
    said: Sequence[Sentence],
    ways: Sequence[Method],
    seeds: Sequence[int],
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Print a time estimate, then draw and measure every sentence under every method.

    Args:
        store: Keeps each part as it is done, so an interrupted call can be resumed.
        name: Of the parts in it.
        function: `measure` or another with its arguments.
        subjects: `pipe`, `judge` and whatever else the function asks for.
    """
    jobs = [(w, said[at : at + TOGETHER]) for w in ways for at in range(0, len(said), TOGETHER)]
    drawing = {"seeds": list(seeds), **SAMPLING}
    loaded = {key: subject.get() for key, subject in subjects.items()}
    began, few = time.perf_counter(), said[:2]
    function(**loaded, asked=fields_of(few), method=asdict(ways[-1]), **drawing)
    seconds = (time.perf_counter() - began) / len(few) * len(said) * len(ways)
    tell(f"{len(said) * len(ways) * len(seeds)} pictures, at most {seconds / 60:.0f} min")
    found, began = [], time.perf_counter()
    for done, (way, some) in enumerate(jobs, start=1):
        asked = {"asked": fields_of(some), "method": asdict(way)}
        found.append(store.cached(name, function, **subjects, **asked, **drawing))
        left = (time.perf_counter() - began) / done * (len(jobs) - done) / 60
        tell(f"{done} of {len(jobs)} parts, about {left:.0f} min left")
    return pd.concat(found, ignore_index=True)


def per_sentence(table: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Mean of the values over orders and seeds: a row per sentence (both orders), methods across.

    Args:
        values: One for each row of the table.
    """
    wide = table.assign(value=values.astype(float))
    return wide.pivot_table(index=["set", "number"], columns="method", values="value")


def right_by_kind(table: pd.DataFrame) -> np.ndarray:
    """Questions answered right, [sentence, kind], over orders and whatever seeds the table has."""
    columns = [f"{kind} right" for kind in KINDS]
    return table.groupby(["set", "number"])[columns].sum().to_numpy()
