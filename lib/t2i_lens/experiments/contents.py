"""Pairs of prompts that differ in one kind of content, and the share of pictures with the target.

Each pair exchanges a word on a sign, an object, its colour or its style. The judge reads all four.

Shown in: notebooks/16_layer_contents.ipynb
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from t2i_lens.experiments.prompt_sets import SEED, SignPrompt, phrase
from t2i_lens.judging.protocols import FOUND
from t2i_lens.methods.localisation import (
    Setting,
    draw_settings,
    first_enough,
    ordered,
    quarter,
    single_layers,
)
from t2i_lens.probes.unet_hooks import cross_attention_layers, unet_of
from t2i_lens.stats.sign_metrics import true_error
from t2i_lens.toybox.judge import CELL, PLACES, Judge, Reading
from t2i_lens.toybox.world.captions import STYLE_FRAME
from t2i_lens.toybox.world.scenes import trained_styles

KINDS = ("object", "colour", "style")  # beside words

Pictures = UInt8[np.ndarray, "n 64 64 3"]
SettingPictures = UInt8[np.ndarray, "setting pair seed 64 64 3"]


@dataclass(frozen=True)
class Exchange:
    """Two prompts that differ in one thing.

    Attributes:
        kind: "word" or one of `KINDS`.
        source: The prompt before.
        target: The prompt after.
        noun: What is drawn: the source's noun, or "sign".
        new: The word, noun, colour or style of the target.
    """

    kind: str
    source: str
    target: str
    noun: str
    new: str

    @property
    def pair(self) -> tuple[str, str]:
        """Source and target prompt."""
        return self.source, self.target

    @property
    def fingerprint(self) -> str:
        """What a reading of its pictures depends on."""
        return repr(self)


def word_exchanges(signs: Sequence[SignPrompt]) -> list[Exchange]:
    """Sign prompts whose word is exchanged."""
    return [Exchange("word", s.source_text, s.target_text, "sign", s.target) for s in signs]


def exchanges(kind: str, words: dict, count: int) -> list[Exchange]:
    """Pairs of prompts of single objects that differ in one kind of content.

    Args:
        kind: One of `KINDS`.
        words: A profile's entry in `words.yaml`.
        count: How many; no noun is the source of two.

    Raises:
        ValueError: another kind, or more pairs than there are nouns.
    """
    if kind not in KINDS:
        raise ValueError(f"no exchanges of {kind!r}; there are {', '.join(KINDS)}")
    rng = np.random.default_rng([SEED, 13, KINDS.index(kind)])
    nouns = [str(noun) for noun in rng.permutation([*words["animals"], *words["objects"]])]
    if count > len(nouns):
        raise ValueError(f"{count} pairs of {kind} are wanted, there are {len(nouns)} nouns")
    pairs = []
    for number, noun in enumerate(nouns[:count]):
        plural = noun in words["plural"]
        if kind == "object":
            new = nouns[(number + 1) % len(nouns)]
            prompts = phrase(noun, None, plural), phrase(new, None, new in words["plural"])
        elif kind == "colour":
            old, new = (str(colour) for colour in rng.choice(words["colours"], 2, replace=False))
            prompts = phrase(noun, old, plural), phrase(noun, new, plural)
        else:
            old, new = (str(s) for s in rng.choice(trained_styles(noun), 2, replace=False))
            plain = phrase(noun, None, plural)
            prompts = STYLE_FRAME.format(plain, old), STYLE_FRAME.format(plain, new)
        pairs.append(Exchange(kind, *prompts, noun, new))
    return pairs


def template_text(sign: SignPrompt) -> str:
    """The template of a sign prompt without its word: "a red sign"."""
    return sign.template.replace(' that says "{}"', "")


def read_targets(
    judge: Judge,
    pictures: SettingPictures,
    exchanges: Sequence[Exchange],
) -> dict[str, np.ndarray]:
    """Probability that a picture shows the target of its exchange, as the judge sees it.

    Args:
        judge: Knows every noun, colour, style and word of the exchanges.
        exchanges: One per pair.

    Returns:
        `target` [setting, pair, seed], probabilities: of the word; of the noun; of the noun
        times that of its colour, or of its style.
    """
    reading = judge.read(pictures.reshape(-1, *pictures.shape[3:]))
    by_exchange = [
        _probability(judge, reading, exchange).reshape(pictures.shape[:3])[:, number]
        for number, exchange in enumerate(exchanges)
    ]
    return {"target": np.stack(by_exchange, axis=1).astype(float)}


def draw_exchanges(
    judge: Judge,
    pipe,
    exchanges: Sequence[Exchange],
    settings: Sequence[Setting],
    seeds: Sequence[int],
    **sampling,
) -> dict[str, np.ndarray]:
    """Draw every setting x exchange x seed and read the target in each picture.

    Args:
        judge: As in `read_targets`.
        pipe: The toybox, or another model that draws pictures of 64 x 64 pixels.
        exchanges: Their prompts are the pairs.
        settings: Layers that read the target prompt, see `localisation.Setting`.
        seeds: One latent each, the same for all settings and exchanges.
        sampling: Passed to `localisation.draw_settings`.

    Returns:
        `pictures`, uint8 [setting, pair, seed, 64, 64, 3], and `target` [setting, pair, seed],
        probabilities in [0, 1], see `read_targets`.
    """
    pairs = [exchange.pair for exchange in exchanges]
    drawn = draw_settings(pipe, pairs, settings, seeds, **sampling)
    return drawn | read_targets(judge, drawn["pictures"], exchanges)


def find_word_layers(
    judge: Judge, pipe, exchanges: Sequence[Exchange], seeds: Sequence[int], **sampling
) -> dict[str, np.ndarray]:
    """Choose the fewest cross-attention layers that together write the target word.

    Layers are ordered by the mean probability of the target word when each alone reads the target
    prompt. The first of them are added up until the share of pictures with the word is at least
    `localisation.ENOUGH` of the share with all layers, or a quarter of the layers is reached.

    Args:
        judge: Knows every word of the exchanges.
        pipe: As in `draw_exchanges`.
        exchanges: Validation words, see `word_exchanges`.
        seeds: One latent each.
        sampling: Passed to `localisation.draw_settings`.

    Returns:
        `order` [layer], all paths, the largest response first;
        `localised` [chosen], the first paths of `order`;
        `response` [layer], mean probability with each layer alone, in the order in which they run;
        `shares` [2], share of pictures that show the target with the chosen and with all layers.
    """
    layers = list(cross_attention_layers(unet_of(pipe)))

    def read(settings: list[Setting]) -> np.ndarray:
        return draw_exchanges(judge, pipe, exchanges, settings, seeds, **sampling)["target"]

    single = read(single_layers(layers))
    response, with_all = single[1:-1].mean((1, 2)), float((single[-1] > FOUND).mean())
    order = ordered(layers, response)
    growing = [Setting(tuple(order[: count + 1])) for count in range(quarter(len(layers)))]
    joint = (read(growing) > FOUND).mean((1, 2))
    last = first_enough(joint.tolist(), with_all)
    return {
        "order": np.array(order),
        "localised": np.array(order[: last + 1]),
        "response": response,
        "shares": np.array([joint[last], with_all]),
    }


def _probability(judge: Judge, reading: Reading, exchange: Exchange) -> np.ndarray:
    if exchange.kind == "word":
        return reading.words[:, judge.words.index(exchange.new)]
    if exchange.kind == "object":
        return reading.nouns[:, judge.nouns.index(exchange.new)]
    noun = judge.nouns.index(exchange.noun)
    if exchange.kind == "style":
        return reading.nouns[:, noun] * reading.styles[:, noun, judge.styles.index(exchange.new)]
    return reading.nouns[:, noun] * reading.colours[:, noun, judge.colours.index(exchange.new)]


def sign_region(judge: Judge, pictures: Pictures) -> Bool[np.ndarray, "n 64 64"]:
    """Pixels in the judge's cells that it labels as sign."""
    sign = judge.sign_places(pictures).reshape(-1, PLACES, PLACES)
    return sign.repeat(CELL, axis=1).repeat(CELL, axis=2)


def background_errors(
    judge: Judge, source: UInt8[np.ndarray, "pair seed 64 64 3"], edited: SettingPictures
) -> dict[str, np.ndarray]:
    """`error` [setting, pair, seed], the change outside the source's sign, grey levels squared.

    A sign that moves changes the background.
    """
    keep = ~sign_region(judge, source.reshape(-1, *source.shape[2:]))
    keep = keep.reshape(*source.shape[:2], *keep.shape[1:])
    return {"error": true_error(source, edited, keep)}


def lost_context(
    judge: Judge, pictures: SettingPictures, prompts: Sequence[dict]
) -> dict[str, np.ndarray]:
    """`lost` [setting, prompt, seed], the number of a prompt's context objects not found.

    Args:
        prompts: Each with `context`, nouns that the judge knows, as in `prompt_sets.Prompt`.
    """
    nouns = judge.read(pictures.reshape(-1, *pictures.shape[3:])).nouns
    missed = nouns.reshape(*pictures.shape[:3], -1) < FOUND
    columns = [[judge.nouns.index(noun) for noun in prompt["context"]] for prompt in prompts]
    by_prompt = [missed[:, number][..., named].sum(-1) for number, named in enumerate(columns)]
    return {"lost": np.stack(by_prompt, axis=1).astype(float)}
