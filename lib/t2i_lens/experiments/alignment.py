"""Test-time optimisation of latents: which sentences are drawn, by which methods, and how.

Every method draws the same annotated sentences, in both orders of their words, from the same
latents. Sentences with a slot for a learned token are drawn in the same way, see `token_alignment`.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.experiments.prompt_attention import untrained_encoder
from t2i_lens.experiments.prompt_sets import PairedPrompt
from t2i_lens.experiments.word_pairs import SWAPPED_JOINT, exchanged
from t2i_lens.methods import attention_losses
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
# Step sizes as published for prompts of two objects, and the multiples that are tried.
PUBLISHED = {"paper": 10.0, "code": 5.0, "attend-and-excite": 20.0, "SynGen": 20.0}
MULTIPLES = (1, 3, 9)
TRIAL_SENTENCES = 2  # of each set for the choice of a multiple, which no result uses
TRIAL_SEEDS = (100, 101)


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
        set: Name of its prompt set, or of the concept whose token it is about.
        number: Of the sentence in the set; both orders have the same.
        order: 0 or 1.
        text: The sentence.
        bound: Pairs (attribute, noun), as in `prompt_sets.PairedPrompt`.
        unbound: Pairs of other words.
        relation: Between its two nouns, if it is not "and".
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
        words = {word for pair in (*self.bound, *self.unbound) for word in pair}
        return sorted(words - attributes, key=self.text.split().index)


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


def trial_methods() -> list[Method]:
    """Each loss at each multiple of its published step size."""
    return [
        Method(f"{loss} x{multiple}", loss, multiple)
        for loss in PUBLISHED
        for multiple in MULTIPLES
    ]


def chosen_multiples(scores: pd.Series) -> dict[str, float]:
    """For each loss the multiple with the best mean score, the smaller if equal.

    Args:
        scores: Mean score of each of `trial_methods`, by name.
    """

    def preference(loss: str, multiple: int) -> tuple[float, int]:
        return scores[f"{loss} x{multiple}"], -multiple

    return {loss: float(max((preference(loss, m), m) for m in MULTIPLES)[1]) for loss in PUBLISHED}


def sentences(sets: dict[str, Sequence[PairedPrompt]]) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences of the comparison in both orders, and others to choose step sizes on.

    Args:
        sets: Name in `SENTENCES` -> all its prompts; those that "and" joins are taken, and every
            relation, which is in its set in both orders.
    """
    compared, trials = [], []
    for name, count in SENTENCES.items():
        pairs = _both_orders(sets[name], related=name == "relations")
        chosen = np.linspace(0, len(pairs) - 1, count).round().astype(int).tolist()
        others = [number for number in range(len(pairs)) if number not in chosen]
        compared += [_sentence(name, n, order, pairs[n][order]) for n in chosen for order in (0, 1)]
        spread = others[:: max(1, len(others) // TRIAL_SENTENCES)][:TRIAL_SENTENCES]
        trials += [_sentence(name, n, 0, pairs[n][0]) for n in spread]
    return compared, trials


def _both_orders(prompts: Sequence[PairedPrompt], related: bool) -> list[tuple]:
    if related:
        return list(zip(prompts[::2], prompts[1::2], strict=True))
    joined = [prompt for prompt in prompts if SWAPPED_JOINT in prompt.text]
    return [(prompt, exchanged(prompt)) for prompt in joined]


def _sentence(name: str, number: int, order: int, prompt: PairedPrompt) -> Sentence:
    return Sentence(name, number, order, prompt.text, prompt.bound, prompt.unbound, prompt.relation)


def losses_of(pipe, sentences: Sequence[Sentence], method: Method) -> list[attention_losses.Loss]:
    """Each sentence's loss under a method.

    Raises:
        ValueError: as `attention_losses.words_of_pairs` and `target`.
    """
    return [_loss_of(pipe, sentence, method) for sentence in sentences]


def _loss_of(pipe, sentence: Sentence, method: Method) -> attention_losses.Loss:
    row = encode(pipe, sentence.text)
    nouns, phrases = attention_losses.words_of_pairs(row, sentence.bound, sentence.unbound)
    if method.loss == "attend-and-excite":
        return attention_losses.AttendExcite(nouns)
    if method.loss == "SynGen":
        return attention_losses.SynGen(phrases, row.eos)
    kinds = {"paper": attention_losses.TsamPaper, "code": attention_losses.TsamCode}
    return kinds[method.loss](target(pipe, sentence, method))


def target(pipe, sentence: Sentence, method: Method) -> torch.Tensor:
    """T that a method follows for a sentence, [token, token], BOS and EOS dropped.

    Raises:
        ValueError: the class-word sentence has another number of tokens.
    """
    row = source = encode(pipe, sentence.text)
    if method.target == "identity":
        return torch.eye(row.eos - 1)
    encoder = pipe.text_encoder
    if method.target == "untrained":
        encoder = untrained_encoder(encoder, 0)
    elif method.target == "class word":
        source = encode(pipe, sentence.plain)
    if source.eos != row.eos:
        raise ValueError(f"{source.prompt!r} and {row.prompt!r} differ in their numbers of tokens")
    pattern = read_ids(encoder, torch.tensor([source.ids])).patterns[0].float().cpu()
    matrix = tsam_matrix if method.loss == "paper" else tsam_matrix_as_released
    return matrix(pattern, source.eos)


def draw(
    pipe, sentences: Sequence[dict], method: dict, seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Draw sentences under one method.

    Args:
        pipe: A pipeline to which every placeholder in the sentences is attached.
        sentences: Fields of `Sentence`.
        method: Fields of `Method`.
        seeds: One latent each, the same for all sentences.
        sampling: Passed to `sampling.generate`.

    Returns:
        `pictures`, uint8 [sentence, seed, height, width, 3]; by picture, seeds fastest: `calls`,
        the U-Net's forward passes, and `backward`; `moved`, the mean length of a step's move over
        that of the latents.

    Raises:
        ValueError: as `losses_of` and `sampling.generate`.

    Shown in: notebooks/drafts/19_tsam_optimisation.ipynb
    """
    drawn, by = [sentence_of(fields) for fields in sentences], Method(**method)
    texts = [sentence.text for sentence in drawn]
    if by.loss is None:
        pictures, traces = generate(pipe, texts, list(seeds), **sampling), []
    else:
        losses, options = losses_of(pipe, drawn, by), {"random": by.random}
        pictures, traces = draw_optimised(
            pipe, texts, losses, seeds, by.updates, **options, **sampling
        )
    return {"pictures": pictures} | _costs(traces, len(drawn) * len(seeds), **sampling)


def _costs(
    traces: Sequence[Trace], pictures: int, *, num_inference_steps: int, guidance_scale: float
) -> dict[str, np.ndarray]:
    passes = np.concatenate([t.passes for t in traces]) if traces else np.zeros(pictures, int)
    steps = num_inference_steps * (2 if guidance_scale > 1 else 1)
    moves = [torch.stack(trace.moved).mean(0).numpy() for trace in traces]
    moved = np.concatenate(moves).astype(float) if moves else np.zeros(pictures)
    return {"calls": steps + passes, "backward": passes, "moved": moved}


def drawn_under(sentences: Sequence[Sentence], method: Method) -> list[Sentence]:
    """The sentences without those for which a method is the same as another.

    A sentence with the class word in its slot has T of the class word anyway.
    """
    if method.target != "class word":
        return list(sentences)
    return [sentence for sentence in sentences if sentence.text != sentence.plain]


def sentence_of(fields: dict) -> Sentence:
    """A sentence again from its fields."""
    pairs = {name: tuple(map(tuple, fields[name])) for name in ("bound", "unbound")}
    return Sentence(**fields | pairs)


def fields_of(sentences: Sequence[Sentence]) -> list[dict]:
    """Sentences as `draw` takes them."""
    return [asdict(sentence) for sentence in sentences]


def marks(subjects: Sequence[Lazy], parts: dict[str, object]) -> dict[str, str]:
    """Hash of the weights and settings behind each part of a table.

    Args:
        subjects: Model, judge and others whose weights count.
        parts: Name -> what the part's rows depend on besides.
    """
    shared = {
        "weights": [subject.fingerprint for subject in subjects],
        "sampling": SAMPLING, "updated": UPDATED, "decay": DECAY, "published": PUBLISHED,
    }  # fmt: skip
    return {
        name: digest(json.dumps(canonical(shared | {"part": part})).encode())
        for name, part in parts.items()
    }


def carry_out(
    store: Cache,
    name: str,
    measure: Callable[..., pd.DataFrame],
    subjects: dict[str, Lazy],
    sentences: Sequence[Sentence],
    methods: Sequence[Method],
    seeds: Sequence[int],
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Print a time estimate, then draw and measure every sentence under every method.

    Args:
        store: Keeps each part as it is done, so an interrupted call can be resumed.
        name: Of the parts in it.
        measure: Takes the subjects, and the arguments of `draw`.
        subjects: `pipe`, `judge` and whatever else `measure` takes.
    """
    under = {method: drawn_under(sentences, method) for method in methods}
    jobs = [
        (method, drawn[at : at + TOGETHER])
        for method, drawn in under.items()
        for at in range(0, len(drawn), TOGETHER)
    ]
    drawing = {"seeds": list(seeds), **SAMPLING}
    loaded = {key: subject.get() for key, subject in subjects.items()}
    began, few = time.perf_counter(), sentences[:2]
    measure(**loaded, sentences=fields_of(few), method=asdict(methods[-1]), **drawing)
    count = sum(len(drawn) for drawn in under.values())
    minutes = (time.perf_counter() - began) / len(few) * count / 60
    tell(f"{count * len(seeds)} pictures, at most {minutes:.0f} min")
    measured, began = [], time.perf_counter()
    for done, (method, batch) in enumerate(jobs, start=1):
        part = {"sentences": fields_of(batch), "method": asdict(method)}
        measured.append(store.cached(name, measure, **subjects, **part, **drawing))
        left = (time.perf_counter() - began) / done * (len(jobs) - done) / 60
        tell(f"{done} of {len(jobs)} parts, about {left:.0f} min left")
    return pd.concat(measured, ignore_index=True)
