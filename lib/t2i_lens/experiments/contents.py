"""Pairs of prompts that differ in one kind of content, and the share of pictures with the target.

Each pair exchanges a word on a sign, an object, its colour or its style. The judge reads words,
objects and colours; a reader of its own reads styles, trained on the world's pictures only.

Shown in: notebooks/16_layer_contents.ipynb
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
from t2i_lens.toybox.captions import SKETCH_FRAMES
from t2i_lens.toybox.judge import CELL, PLACES, Judge, Reading
from t2i_lens.toybox.world import LUMINANCE, Scene, Thing, render

KINDS = ("object", "colour", "style")  # beside words
STYLE_PICTURES = 12  # of each noun in each style that the style reader is trained on

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
    made = []
    for place, noun in enumerate(nouns[:count]):
        plural = noun in words["plural"]
        if kind == "object":
            new = nouns[(place + 1) % len(nouns)]
            both = phrase(noun, None, plural), phrase(new, None, new in words["plural"])
        elif kind == "colour":
            old, new = (str(colour) for colour in rng.choice(words["colours"], 2, replace=False))
            both = phrase(noun, old, plural), phrase(noun, new, plural)
        else:
            new, plain = "sketch", phrase(noun, None, plural)
            both = plain, SKETCH_FRAMES[0].format(plain)
        made.append(Exchange(kind, *both, noun, new))
    return made


def template_text(sign: SignPrompt) -> str:
    """The template of a sign prompt without its word: "a red sign"."""
    return sign.template.replace(' that says "{}"', "")


class StyleReader:
    """Tells pencil sketches of single objects from icons, by a few numbers of the picture.

    Attributes:
        accuracy: Share of held-out pictures of the world that it gets right.
    """

    def __init__(self, model, accuracy: float):
        self._model, self.accuracy = model, accuracy

    def sketch(self, pictures: Pictures) -> Float[np.ndarray, " n"]:
        """Probability that each picture is a sketch."""
        return self._model.predict_proba(style_features(pictures))[:, 1]


def style_features(pictures: Pictures) -> Float[np.ndarray, "n feature"]:
    """Mean and 95th percentile of colourfulness and of darkness, and mean contrast, in [0, 1]."""
    flat = pictures.astype(np.float32) / 255
    colourful = flat.max(-1) - flat.min(-1)
    dark = 1 - flat @ LUMINANCE
    contrast = np.abs(np.diff(dark, axis=1)).mean((1, 2)) + np.abs(np.diff(dark)).mean((1, 2))
    columns = [contrast]
    for values in (colourful, dark):
        columns += [values.mean((1, 2)), np.quantile(values, 0.95, axis=(1, 2))]
    return np.stack(columns, axis=1).astype(np.float64)


def train_style_reader(nouns: Sequence[str], seed: int = 0) -> StyleReader:
    """Logistic regression on pictures that the world draws of these nouns, in both styles.

    Args:
        nouns: Single objects, uncoloured, on white paper, in every size.
        seed: Of sizes and places.
    """
    pictures, labels = [], []
    rng = np.random.default_rng(seed)
    for noun in nouns:
        for number in range(STYLE_PICTURES):
            size = (None, "small", "large")[number % 3]
            for label, style in enumerate((None, "sketch")):
                scene = Scene((Thing(noun, size=size),), style=style)
                pictures.append(render(scene, rng))
                labels.append(label)
    features, labels = style_features(np.stack(pictures)), np.array(labels)
    held_out = np.arange(len(labels)) // 2 % 4 == 0  # both styles of every fourth picture
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features[~held_out], labels[~held_out])
    return StyleReader(model, float(model.score(features[held_out], labels[held_out])))


def read_targets(
    judge: Judge,
    style_nouns: Sequence[str],
    pictures: SettingPictures,
    exchanges: Sequence[Exchange],
) -> dict[str, np.ndarray]:
    """Probability that a picture shows the target of its exchange, as the readers see it.

    Args:
        judge: Knows every noun, colour and word of the exchanges.
        style_nouns: What the style reader is trained on; asked only where a style is exchanged.
        exchanges: One per pair.

    Returns:
        `target` [setting, pair, seed], probabilities: of the word; of the noun; of the noun
        times that of its colour; of a sketch.
    """
    style = any(exchange.kind == "style" for exchange in exchanges)
    reader = train_style_reader(style_nouns) if style else None
    found = np.empty(pictures.shape[:3])
    for place, exchange in enumerate(exchanges):
        some = pictures[:, place].reshape(-1, *pictures.shape[3:])
        if exchange.kind == "style":
            values = reader.sketch(some)
        else:
            values = _probability(judge, judge.read(some), exchange)
        found[:, place] = values.reshape(found[:, place].shape)
    return {"target": found}


def draw_exchanges(
    judge: Judge,
    pipe,
    exchanges: Sequence[Exchange],
    settings: Sequence[Setting],
    seeds: Sequence[int],
    style_nouns: Sequence[str] = (),
    **sampling,
) -> dict[str, np.ndarray]:
    """Draw every setting x exchange x seed and read the target in each picture.

    Args:
        judge: As in `read_targets`.
        pipe: The toybox, or another model that draws pictures of 64 x 64 pixels.
        exchanges: Their prompts are the pairs.
        settings: Layers that read the target prompt, see `localisation.Setting`.
        seeds: One latent each, the same for all settings and exchanges.
        style_nouns: As in `read_targets`.
        sampling: Passed to `localisation.draw_settings`.

    Returns:
        `pictures`, uint8 [setting, pair, seed, 64, 64, 3], and `target` [setting, pair, seed],
        probabilities in [0, 1], see `read_targets`.
    """
    pairs = [exchange.pair for exchange in exchanges]
    drawn = draw_settings(pipe, pairs, settings, seeds, **sampling)
    return drawn | read_targets(judge, style_nouns, drawn["pictures"], exchanges)


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
    response, whole = single[1:-1].mean((1, 2)), float((single[-1] > FOUND).mean())
    order = ordered(layers, response)
    growing = [Setting(tuple(order[: count + 1])) for count in range(quarter(len(layers)))]
    joint = (read(growing) > FOUND).mean((1, 2))
    last = first_enough(joint.tolist(), whole)
    return {
        "order": np.array(order),
        "localised": np.array(order[: last + 1]),
        "response": response,
        "shares": np.array([joint[last], whole]),
    }


def _probability(judge: Judge, reading: Reading, exchange: Exchange) -> np.ndarray:
    if exchange.kind == "word":
        return reading.words[:, judge.words.index(exchange.new)]
    if exchange.kind == "object":
        return reading.nouns[:, judge.nouns.index(exchange.new)]
    noun = judge.nouns.index(exchange.noun)
    return reading.nouns[:, noun] * reading.colours[:, noun, judge.colours.index(exchange.new)]


@torch.no_grad()
def sign_region(judge: Judge, pictures: Pictures) -> Bool[np.ndarray, "n 64 64"]:
    """Pixels in the judge's cells that it labels as sign."""
    labels = judge.network(torch.tensor(pictures))[0].argmax(-1).numpy()
    sign = (labels == len(judge.nouns)).reshape(-1, PLACES, PLACES)
    return sign.repeat(CELL, axis=1).repeat(CELL, axis=2)


def background_errors(
    judge: Judge, source: UInt8[np.ndarray, "pair seed 64 64 3"], edited: SettingPictures
) -> dict[str, np.ndarray]:
    """`error` [setting, pair, seed], the change outside the source's sign, grey levels squared.

    A sign that moves changes the background.
    """
    keep = ~sign_region(judge, source.reshape(-1, *source.shape[2:]))
    keep = keep.reshape(*source.shape[:2], *keep.shape[1:])
    errors = np.empty(edited.shape[:3])
    for setting, pair, seed in np.ndindex(*errors.shape):
        kept = keep[pair, seed]
        errors[setting, pair, seed] = true_error(
            source[pair, seed], edited[setting, pair, seed], kept
        )
    return {"error": errors}


def lost_context(
    judge: Judge, pictures: SettingPictures, prompts: Sequence[dict]
) -> dict[str, np.ndarray]:
    """`lost` [setting, prompt, seed], the number of a prompt's context objects not found.

    Args:
        prompts: Each with `context`, nouns that the judge knows, as in `prompt_sets.Prompt`.
    """
    nouns = judge.read(pictures.reshape(-1, *pictures.shape[3:])).nouns
    nouns = nouns.reshape(*pictures.shape[:3], -1)
    lost = np.zeros(pictures.shape[:3])
    for place, prompt in enumerate(prompts):
        columns = [judge.nouns.index(noun) for noun in prompt["context"]]
        lost[:, place] = (nouns[:, place][..., columns] < FOUND).sum(-1)
    return {"lost": lost}
