"""The judge: what is in a picture? Trained on the world's pictures only, never on generated ones.

It labels each of 8x8 places with an object, its colour and its style, so that presence, colour and
style of a given noun, relations and mixtures are read from where things are; a second head reads
the word of a sign.

Shown in: book/toybox.md
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.nets.networks import PICTURE_WIDTH, PictureTower
from t2i_lens.toybox.training.fit import Schedule, fit
from t2i_lens.toybox.world.atlas import sprites, styles_of, world_words
from t2i_lens.toybox.world.placing import PICTURE
from t2i_lens.toybox.world.scenes import Scene, Thing, draw, sample_scene

FOLDER = DATA / "models" / "judge"
PLACES = 8
CELL = PICTURE // PLACES
OTHER_SHARE = 0.12  # pictures of one wide noun, labelled "other": not everything is a known noun
MIXED_SHARE = 0.3  # pictures in which one thing is half of another noun, labelled as both
FOUND = 0.5  # a noun is there when some place gives it more than this probability
# A place that gives both of two nouns more than this holds a mixture; at most one whole object in a
# hundred is taken for one, on pictures of another seed than the quality table's.
MIXED = 0.1


class Outcome(StrEnum):
    """What a picture asked for two objects shows of them, as "A Cat Is A Cat" counts (2024)."""

    both = "both"
    only_mixture = "only a mixture"
    first_and_mixture = "first and a mixture"
    second_and_mixture = "second and a mixture"
    only_first = "only first"
    only_second = "only second"
    none = "none"


def classes() -> list[str]:
    """What a place can hold and the network tells apart: nouns, and objects near to them."""
    words = world_words()
    return [*words["nouns"], *(c["name"] for c in words["concepts"] if "icons" in c)]


def labels() -> tuple[list[str], list[str], list[str], list[str]]:
    """Names of the network's classes: nouns with the near objects, colours, styles, words."""
    words = world_words()
    return classes(), list(words["colours"]), list(words["styles"]), list(words["words"])


@lru_cache(maxsize=1)
def names() -> dict[str, tuple[str, ...]]:
    """What the judge can be asked for, and the classes that count for it.

    A composed concept is its noun: its colour and style are read apart. An object near to a noun
    is found as itself or as that noun: a model that never drew it comes no nearer than that.
    """
    class_names: dict[str, tuple[str, ...]] = {noun: (noun,) for noun in world_words()["nouns"]}
    for concept in world_words()["concepts"]:
        name = concept["name"]
        class_names[name] = (
            (concept["noun"],) if "noun" in concept else (name, concept["superclass"])
        )
    return class_names


class JudgeNetwork(nn.Module):
    """Pictures uint8 `[batch, 64, 64, 3]` to logits: nouns, colours, styles per place, and words.

    Shapes: `[batch, place=64, noun + 3]` (… sign, other, nothing), `[…, colour + 1]` (… natural),
    `[…, style]`, and `[batch, word + 1]` (… none).
    """

    def __init__(self, nouns: int, colours: int, styles: int, words: int):
        super().__init__()
        self.tower = PictureTower(layers=3)
        self.nouns = nn.Linear(PICTURE_WIDTH, nouns + 3)
        self.colours = nn.Linear(PICTURE_WIDTH, colours + 1)
        self.styles = nn.Linear(PICTURE_WIDTH, styles)
        self.words = nn.Linear(PLACES * PLACES * 16, words + 1)
        self.narrow = nn.Linear(PICTURE_WIDTH, 16)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = self.tower(pictures)
        words = self.words(self.narrow(places).flatten(1))
        return self.nouns(places), self.colours(places), self.styles(places), words


@dataclass(frozen=True)
class Reading:
    """What the judge sees in `n` pictures; `noun` runs over `Judge.nouns`.

    Attributes:
        nouns: Probability in [0, 1] that each noun is present `[n, noun]`.
        colours: Probabilities of each colour, the last one "natural", at the place where the noun
            is most likely `[n, noun, colour + 1]`.
        styles: Probabilities of each style at that place `[n, noun, style]`.
        centres: Mean place (x, y) of each noun in pixels `[n, noun, 2]`, if it is present.
        places: Probability of each noun at each place, row by row `[n, place, noun]`.
        words: Probabilities of each word, the last one "none" `[n, word + 1]`.
    """

    nouns: np.ndarray
    colours: np.ndarray
    styles: np.ndarray
    centres: np.ndarray
    places: np.ndarray
    words: np.ndarray


class Judge:
    """Reads pictures; `nouns`, `colours`, `styles` and `words` name the axes of its readings."""

    def __init__(self, network: JudgeNetwork):
        self.network = network.eval()
        known, self.colours, self.styles, self.words = labels()
        self.nouns = list(names())
        counts = [[name in names()[asked] for asked in self.nouns] for name in known]
        self._counts = torch.tensor(counts, dtype=torch.float32)  # [class, noun]

    @torch.no_grad()
    def read(self, images: np.ndarray, batch_size: int = 128) -> Reading:
        """Read pictures uint8 `[n, 64, 64, 3]`.

        Raises:
            ValueError: the pictures have another size or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (PICTURE, PICTURE, 3):
            raise ValueError(
                f"the judge reads uint8 [n, 64, 64, 3], got {images.dtype} {list(images.shape)}"
            )
        parts = [
            self._read(torch.from_numpy(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
        return Reading(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))

    def _read(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        noun_logits, colour_logits, style_logits, word_logits = self.network(pictures)
        known = noun_logits.softmax(-1)[..., : len(self._counts)]
        by_place = known @ self._counts  # [n, place, noun]
        present, place = by_place.max(dim=1)

        def at_place(logits: torch.Tensor) -> torch.Tensor:
            chosen = place.unsqueeze(-1).expand(-1, -1, logits.shape[-1])
            return logits.softmax(-1).gather(1, chosen)

        share = by_place / by_place.sum(1, keepdim=True).clamp_min(1e-9)
        row, column = torch.meshgrid(torch.arange(PLACES), torch.arange(PLACES), indexing="ij")
        grid = (torch.stack([column, row], -1).reshape(-1, 2) + 0.5) * CELL
        centres = torch.einsum("npk,pc->nkc", share, grid.float())
        colours, styles = at_place(colour_logits), at_place(style_logits)
        return present, colours, styles, centres, by_place, word_logits.softmax(-1)

    @torch.no_grad()
    def sign_places(self, images: np.ndarray) -> np.ndarray:
        """Is each place a sign's, in pictures uint8 `[n, 64, 64, 3]`? bool `[n, place]`."""
        labels = self.network(torch.tensor(images))[0].argmax(-1)
        return (labels == len(self._counts)).numpy()

    def present(self, reading: Reading, noun: str, threshold: float = FOUND) -> np.ndarray:
        """Is the noun there? bool `[n]`."""
        return reading.nouns[:, self.nouns.index(noun)] > threshold

    def colour(self, reading: Reading, noun: str) -> list[str | None]:
        """Most likely colour of the noun in each picture, None for natural."""
        names = [*self.colours, None]
        return [names[i] for i in reading.colours[:, self.nouns.index(noun)].argmax(-1)]

    def style(self, reading: Reading, noun: str) -> list[str]:
        """Most likely style of the noun in each picture."""
        return [self.styles[i] for i in reading.styles[:, self.nouns.index(noun)].argmax(-1)]

    def word(self, reading: Reading) -> list[str | None]:
        """Most likely word in each picture, None for none."""
        names = [*self.words, None]
        return [names[i] for i in reading.words.argmax(-1)]

    def mixed(self, reading: Reading, first: str, second: str) -> np.ndarray:
        """Does some place hold a mixture of the two nouns? bool `[n]`."""
        a, b = (reading.places[..., self.nouns.index(noun)] for noun in (first, second))
        return (np.minimum(a, b) > MIXED).any(1)

    def outcomes(self, reading: Reading, first: str, second: str) -> list[Outcome]:
        """What each picture shows of two nouns asked for."""
        states = [
            self.present(reading, first), self.present(reading, second),
            self.mixed(reading, first, second),
        ]  # fmt: skip
        return [
            _outcome(*(bool(value) for value in of_picture))
            for of_picture in zip(*states, strict=True)
        ]


def _outcome(first: bool, second: bool, mixture: bool) -> Outcome:
    if first and second:
        return Outcome.both
    if first:
        return Outcome.first_and_mixture if mixture else Outcome.only_first
    if second:
        return Outcome.second_and_mixture if mixture else Outcome.only_second
    return Outcome.only_mixture if mixture else Outcome.none


def load_judge(folder: Path = FOLDER) -> Judge:
    """The shipped judge.

    Raises:
        FileNotFoundError: no weights there.
    """
    file = folder / "judge.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; restore it or train the toybox")
    network = JudgeNetwork(*(len(names) for names in labels()))
    network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return Judge(network)


def save_judge(network: JudgeNetwork, folder: Path = FOLDER) -> None:
    """Write fp16 weights and the class names."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "judge.safetensors")
    axes = dict(zip(("nouns", "colours", "styles", "words"), labels(), strict=True))
    (folder / "labels.json").write_text(json.dumps(axes, indent=1) + "\n")


def sample_labelled(rng: np.random.Generator) -> tuple[Scene, bool]:
    """A scene of anything the judge knows, or (second value True) of one unknown object."""
    words = world_words()
    if rng.random() < OTHER_SHARE:
        return sample_scene(rng, (1.0, 0.0, 0.0, 0.0), words["wide_nouns"]), True
    return sample_scene(rng, nouns=classes(), held_out_too=True), False


@dataclass(frozen=True)
class LabelledBatches:
    """Callable for `fit`: pictures with two nouns (mostly equal), colour and style per place, and
    the word.
    """

    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        nouns, colours, styles, words = labels()
        shape = (self.batch, PLACES, PLACES)
        pictures = np.zeros((self.batch, PICTURE, PICTURE, 3), np.uint8)
        first, colour_map, style_map = (
            np.full(shape, fill) for fill in (len(nouns) + 2, -100, -100)
        )
        second = first.copy()
        word = np.full(self.batch, len(words))
        for i in range(self.batch):
            scene, unknown = sample_labelled(rng)
            picture, boxes = draw(scene, rng)
            mixture = None
            if not unknown and not scene.things[0].word and rng.random() < MIXED_SHARE:
                mixture = other_noun(scene, nouns, rng)
                picture = mixed_picture(picture, boxes[0], mixture, rng)
            for index, (thing, box) in enumerate(zip(scene.things, boxes, strict=True)):
                cells = (i, *_cells(box))
                first[cells] = second[cells] = _noun_class(thing, unknown, nouns)
                if index == 0 and mixture is not None:
                    second[cells] = nouns.index(mixture.noun)
                    continue  # of two halves neither colour nor style is defined
                colour = len(colours) if thing.colour is None else colours.index(thing.colour)
                colour_map[cells] = colour
                if thing.style is not None and not unknown:
                    style_map[cells] = styles.index(thing.style)
                if thing.word:
                    word[i] = words.index(thing.word)
            pictures[i] = _degrade(picture, rng)
        maps = (first, second, colour_map, style_map)
        flat = (torch.from_numpy(part.reshape(self.batch, -1)) for part in maps)
        return torch.from_numpy(pictures), *flat, torch.from_numpy(word)


def _noun_class(thing: Thing, unknown: bool, nouns: list[str]) -> int:
    if thing.noun == "sign":
        return len(nouns)
    return len(nouns) + 1 if unknown else nouns.index(thing.noun)


def _cells(box: np.ndarray) -> tuple[slice, slice]:
    """Places whose centre lies in the box, at least one each way."""
    low = np.minimum(np.ceil(box[:2] / CELL - 0.5).astype(int), PLACES - 1)
    high = np.maximum(np.ceil(box[2:] / CELL - 0.5).astype(int), low + 1)
    return slice(low[1], high[1]), slice(low[0], high[0])


def other_noun(scene: Scene, nouns: list[str], rng: np.random.Generator) -> Thing:
    """A random noun that the scene does not hold, in one of its styles."""
    present = {thing.noun for thing in scene.things}
    noun = str(rng.choice([noun for noun in nouns if noun not in present]))
    return Thing(noun, style=str(rng.choice(styles_of()[noun])))


def mixed_picture(
    picture: np.ndarray, box: np.ndarray, other: Thing, rng: np.random.Generator
) -> np.ndarray:
    """Another noun in a thing's box: over a half of it, or shining through all of it."""
    left, top, right, bottom = (int(v) for v in box.clip(0, PICTURE))
    size = (max(right - left, 1), max(bottom - top, 1))
    sprite = Image.fromarray(sprites()[f"{other.noun}/{other.style}"]).resize(size, Image.LANCZOS)
    rgba = np.asarray(sprite, np.float32)
    patch = picture[top : top + size[1], left : left + size[0]].astype(np.float32)
    alpha = rgba[..., 3:] / 255
    kind = int(rng.integers(3))
    if kind < 2:
        half = np.zeros((size[1], size[0], 1), np.float32)
        (half[:, size[0] // 2 :] if kind == 0 else half[size[1] // 2 :])[:] = 1
        ground = picture[0, 0].astype(np.float32)
        patch = patch * (1 - half) + (ground * (1 - alpha) + rgba[..., :3] * alpha) * half
    else:
        patch = patch * (1 - alpha * 0.5) + rgba[..., :3] * alpha * 0.5
    mixed = picture.copy()
    mixed[top : top + size[1], left : left + size[0]] = patch.clip(0, 255).round()
    return mixed


def _degrade(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the pictures get noise, blur, a little brightness: a blurred cat is still a cat."""
    if rng.random() < 0.5:
        return picture
    if rng.random() < 0.5:
        side = int(rng.integers(28, 60))
        small = Image.fromarray(picture).resize((side, side), Image.BILINEAR)
        picture = np.asarray(small.resize((PICTURE, PICTURE), Image.BICUBIC))
    noise = rng.normal(0, rng.uniform(0, 12), picture.shape) + rng.uniform(-10, 10)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def train(
    folder: Path, schedule: Schedule, device: torch.device, initial: dict | None = None
) -> JudgeNetwork:
    """Train the judge; see `fit` for what is written to folder."""

    def loss_of(model: JudgeNetwork, batch):
        pictures, first, second, colour_map, style_map, word = (p.to(device) for p in batch)
        noun_logits, colour_logits, style_logits, word_logits = model(pictures)
        flat = noun_logits.flatten(0, 1).float()
        noun = sum(functional.cross_entropy(flat, target.flatten()) for target in (first, second))
        noun = noun / 2
        colour = functional.cross_entropy(colour_logits.flatten(0, 1).float(), colour_map.flatten())
        style = functional.cross_entropy(style_logits.flatten(0, 1).float(), style_map.flatten())
        read = functional.cross_entropy(word_logits.float(), word)
        parts = {"noun": noun, "colour": colour, "style": style, "word": read}
        loss = noun + 0.5 * (colour + style + read)
        return loss, {name: float(part.detach()) for name, part in parts.items()}

    network = JudgeNetwork(*(len(names) for names in labels()))
    if initial is not None:
        initial = network.state_dict() | initial
    batches = LabelledBatches(schedule.batch)
    return fit("judge", folder, network, batches, loss_of, schedule, device,
               initial=initial, compiled=(network.tower,))  # fmt: skip
