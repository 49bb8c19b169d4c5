"""Fine-tuning of some cross-attention layers on pictures of signs, and what is written afterwards.

The words of the fine-tuning pictures, other words that the model knows, words that it never saw on
a sign, and prompts without a sign are drawn with each fine-tuned model.

Shown in: notebooks/27_lora_layers.ipynb
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch

from t2i_lens.experiments.prompt_sets import SIMPLE, PairedPrompt, SignPrompt
from t2i_lens.judging.ocr import read_texts
from t2i_lens.judging.protocols import FOUND
from t2i_lens.methods.layer_adapters import Training, adapted, encoded
from t2i_lens.methods.localisation import Setting, random_sets
from t2i_lens.probes.sampling import generate
from t2i_lens.toybox.world.captions import caption
from t2i_lens.toybox.world.scenes import Scene, Thing, render, sample_scene

AMOUNTS = (32, 128, 512)  # pictures
RANDOM_SETS = 3  # with the largest amount
HELD_OUT = 6  # of the test words stand in no picture of the fine-tuning
# Nouns that no sign of the world says, one token each: in the pictures, and in none of them.
NEW_TAUGHT, NEW = ("bird", "hat", "clock"), ("lion", "key", "chair")
TAUGHT = 6  # words of the fine-tuning pictures are drawn too
FRAMES = 8  # sentences of each held-out word
OTHERS = 8  # prompts without a sign
SEEDS = (0, 1)
SEED = 27  # of the pictures
BEFORE = "before"
KEYS = ["way", "amount", "prompt", "seed"]


@dataclass(frozen=True)
class Way:
    """Layers that are fine-tuned, and the pictures they are fine-tuned on.

    Attributes:
        name: Of the set of layers.
        layers: Their paths; none is the model as it is.
        amount: Number of pictures.
    """

    name: str
    layers: tuple[str, ...] = ()
    amount: int = 0


@dataclass(frozen=True)
class Asked:
    """A prompt, and what a picture of it should show.

    Attributes:
        kind: "taught" and "held out" words, "new, taught" and "new" ones, or "others": a prompt
            without a sign.
        text: The prompt.
        word: On the sign, if there is one.
        nouns: Objects, if there is none.
    """

    kind: str
    text: str
    word: str = ""
    nouns: tuple[str, ...] = ()


def ways(layers: Sequence[str], localised: Sequence[str]) -> list[Way]:
    """The model before; localised and all layers with each amount of pictures; random layers."""
    sets = random_sets(layers, len(localised), RANDOM_SETS, 1, Setting(tuple(localised)))
    found = [Way(BEFORE)]
    for amount in AMOUNTS:
        found += [
            Way("localised layers", tuple(localised), amount),
            Way("all layers", tuple(layers), amount),
        ]
    return [
        *found,
        *(Way(f"random layers {n}", s.layers, max(AMOUNTS)) for n, s in enumerate(sets, 1)),
    ]


def words(signs: Sequence[SignPrompt]) -> tuple[list[str], list[str]]:
    """Words of the fine-tuning pictures, and those held out.

    Args:
        signs: Validation signs, then test signs; the last of them are held out.
    """
    known = [sign.source for sign in signs]
    return known[:-HELD_OUT], known[-HELD_OUT:]


def asked(signs: Sequence[SignPrompt], others: Sequence[PairedPrompt]) -> list[Asked]:
    """All prompts that are drawn with each model.

    Args:
        signs: As for `words`, creative ones: their templates are the frames.
        others: Prompts of objects, spread over the list.
    """
    taught, held_out = words(signs)
    frames = list(dict.fromkeys(sign.template for sign in signs))[:FRAMES]
    prompts = [Asked("taught", SIMPLE.replace("{}", w), w) for w in taught[:TAUGHT]]
    prompts += [Asked("held out", f.replace("{}", w), w) for w in held_out for f in frames]
    for kind, some in (("new, taught", NEW_TAUGHT), ("new", NEW)):
        prompts += [Asked(kind, SIMPLE.replace("{}", word), word) for word in some]
    chosen = np.linspace(0, len(others) - 1, OTHERS).round().astype(int)
    for prompt in (others[number] for number in chosen):
        attributes = {attribute for attribute, _ in prompt.bound}
        nouns = {word for pair in (*prompt.bound, *prompt.unbound) for word in pair} - attributes
        prompts.append(Asked("others", prompt.text, nouns=tuple(sorted(nouns))))
    return prompts


def sign_pictures(
    words: Sequence[str], amount: int, seed: int = SEED
) -> tuple[torch.Tensor, list[str]]:
    """Pictures of signs of the world with these words, and their captions.

    More of them begin with the same ones.

    Returns:
        Bytes, [picture, 64, 64, 3], and a caption for each.
    """
    pictures, captions = [], []
    for number in range(amount):
        rng = np.random.default_rng([seed, number])
        scene = _with_word(sample_scene(rng, (0.0, 0.0, 0.0, 1.0)), words[number % len(words)])
        pictures.append(render(scene, rng))
        captions.append(caption(scene, rng))
    return torch.from_numpy(np.stack(pictures)), captions


def _with_word(scene: Scene, word: str) -> Scene:
    def put(thing: Thing) -> Thing:
        return replace(thing, word=word) if thing.word else thing

    return replace(scene, things=tuple(map(put, scene.things)))


def measure(
    judge,
    pipe,
    prompts: Sequence[dict],
    taught: Sequence[str],
    way: dict,
    seeds: Sequence[int],
    training: Training,
    **sampling,
) -> pd.DataFrame:
    """Fine-tune the layers of a way, draw all prompts, and read the pictures.

    Args:
        judge: The toybox's.
        pipe: The toybox; it is as before afterwards.
        prompts: Fields of `Asked`.
        taught: Words of the fine-tuning pictures.
        way: Fields of `Way`.
        seeds: One latent each.
        training: Parameters of the fine-tuning.
        sampling: Passed to `sampling.generate`.

    Returns:
        A row per prompt and seed: `KEYS`, `kind` and `text` of the prompt; `shown`, whether the
        word is read, by the judge where it knows the word, else by the OCR engine; for prompts
        without a sign the share of their objects that is found; `loss`, mean of the last tenth of
        the steps, nan without fine-tuning.
    """
    drawn = tuned_pictures(pipe, prompts, taught, way, seeds, training, **sampling)
    return read_pictures(judge, prompts, way, seeds, **drawn)


def tuned_pictures(
    pipe,
    prompts: Sequence[dict],
    taught: Sequence[str],
    way: dict,
    seeds: Sequence[int],
    training: Training,
    **sampling,
) -> dict[str, np.ndarray]:
    """The pictures of `measure`.

    Returns:
        `pictures`, bytes [prompt, seed, 64, 64, 3], and `losses`, one for each step.
    """
    pictures, captions = sign_pictures([*taught, *NEW_TAUGHT], max(1, way["amount"]))
    latents = encoded(pipe, pictures)
    with adapted(pipe, way["layers"], latents, captions, training) as losses:
        drawn = generate(pipe, [fields["text"] for fields in prompts], list(seeds), **sampling)
    return {"pictures": drawn, "losses": losses.numpy()}


def read_pictures(
    judge,
    prompts: Sequence[dict],
    way: dict,
    seeds: Sequence[int],
    pictures: np.ndarray,
    losses: np.ndarray,
) -> pd.DataFrame:
    """What `measure` says about its pictures."""
    asked = [Asked(**fields | {"nouns": tuple(fields["nouns"])}) for fields in prompts]
    shown = [_shown(judge, prompt, own) for prompt, own in zip(asked, pictures, strict=True)]
    rows = [
        {
            "way": way["name"], "amount": way["amount"], "prompt": number, "seed": seed,
            "kind": prompt.kind, "text": prompt.text, "shown": shown[number][place],
        }
        for number, prompt in enumerate(asked)
        for place, seed in enumerate(seeds)
    ]  # fmt: skip
    last = losses[-max(1, len(losses) // 10) :]
    return pd.DataFrame(rows).assign(loss=float(last.mean()) if len(last) else np.nan)


def _shown(judge, prompt: Asked, pictures: np.ndarray) -> np.ndarray:
    if prompt.word and prompt.word not in judge.words:
        readings = read_texts(pictures)
        return np.array([prompt.word in " ".join(r.lines).split() for r in readings], float)
    reading = judge.read(pictures)
    if prompt.word:
        return (reading.words[:, judge.words.index(prompt.word)] > FOUND).astype(float)
    columns = [judge.nouns.index(noun) for noun in prompt.nouns]
    return (reading.nouns[:, columns] > FOUND).mean(1)


def fields_of(things: Sequence[Way | Asked]) -> list[dict]:
    """Ways or prompts as `measure` takes them."""
    return [asdict(thing) for thing in things]
