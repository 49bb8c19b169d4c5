"""The judge: what is in a picture? Trained on the world's pictures only, never on generated ones.

It labels each of 8x8 places with an object and its colour, so that presence, colour of a given noun
and relations are read from where things are; a second head reads the word of a sign.

Shown in: book/toybox.md
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from t2i_lens.base.paths import DATA
from t2i_lens.toybox.atlas import world_words
from t2i_lens.toybox.fit import Schedule, fit
from t2i_lens.toybox.models import PICTURE_WIDTH, PictureTower
from t2i_lens.toybox.placing import PICTURE
from t2i_lens.toybox.world import Scene, Thing, draw, sample_scene

FOLDER = DATA / "models" / "judge"
PLACES = 8
CELL = PICTURE // PLACES
OTHER_SHARE = 0.15  # pictures of one wide noun, labelled "other": not everything is a known noun


def labels() -> tuple[list[str], list[str], list[str]]:
    """Names of the judge's classes: nouns with the held-out concepts, colours, words."""
    words = world_words()
    nouns = [*words["nouns"], *(concept["name"] for concept in words["concepts"])]
    return nouns, list(words["colours"]), list(words["words"])


class JudgeNetwork(nn.Module):
    """Pictures uint8 ``[batch, 64, 64, 3]`` to logits: nouns and colours per place, and words."""

    def __init__(self, nouns: int, colours: int, words: int):
        super().__init__()
        self.tower = PictureTower(layers=3)
        self.nouns = nn.Linear(PICTURE_WIDTH, nouns + 3)  # … sign, other, nothing
        self.colours = nn.Linear(PICTURE_WIDTH, colours + 1)  # … natural
        self.words = nn.Linear(PLACES * PLACES * 16, words + 1)  # … none
        self.narrow = nn.Linear(PICTURE_WIDTH, 16)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        places = self.tower(pictures)
        return self.nouns(places), self.colours(places), self.words(self.narrow(places).flatten(1))


@dataclass(frozen=True)
class Reading:
    """What the judge sees in ``n`` pictures.

    Attributes:
        nouns: Probability in [0, 1] that each noun is present ``[n, noun]``.
        colours: Probabilities of each colour, the last one "natural", at the place where the noun
            is most likely ``[n, noun, colour + 1]``.
        centres: Mean place (x, y) of each noun in pixels ``[n, noun, 2]``, if it is present.
        words: Probabilities of each word, the last one "none" ``[n, word + 1]``.
    """

    nouns: np.ndarray
    colours: np.ndarray
    centres: np.ndarray
    words: np.ndarray


class Judge:
    """Reads pictures; ``nouns``, ``colours`` and ``words`` name the axes of its readings."""

    def __init__(self, network: JudgeNetwork):
        self.network = network.eval()
        self.nouns, self.colours, self.words = labels()

    @torch.no_grad()
    def read(self, images: np.ndarray, batch_size: int = 128) -> Reading:
        """Read pictures uint8 ``[n, 64, 64, 3]``.

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
        noun_logits, colour_logits, word_logits = self.network(pictures)
        here = noun_logits.softmax(-1)[..., : len(self.nouns)]  # [n, place, noun]
        present, place = here.max(dim=1)
        colours = colour_logits.softmax(-1)
        chosen = place.unsqueeze(-1).expand(-1, -1, colours.shape[-1])
        share = here / here.sum(1, keepdim=True).clamp_min(1e-9)
        row, column = torch.meshgrid(torch.arange(PLACES), torch.arange(PLACES), indexing="ij")
        grid = (torch.stack([column, row], -1).reshape(-1, 2) + 0.5) * CELL
        centres = torch.einsum("npk,pc->nkc", share, grid.float())
        return present, colours.gather(1, chosen), centres, word_logits.softmax(-1)

    def present(self, reading: Reading, noun: str, threshold: float = 0.5) -> np.ndarray:
        """Is the noun there? bool ``[n]``."""
        return reading.nouns[:, self.nouns.index(noun)] > threshold

    def colour(self, reading: Reading, noun: str) -> list[str | None]:
        """Most likely colour of the noun in each picture, None for natural."""
        names = [*self.colours, None]
        return [names[i] for i in reading.colours[:, self.nouns.index(noun)].argmax(-1)]

    def word(self, reading: Reading) -> list[str | None]:
        """Most likely word in each picture, None for none."""
        names = [*self.words, None]
        return [names[i] for i in reading.words.argmax(-1)]


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
    names = dict(zip(("nouns", "colours", "words"), labels(), strict=True))
    (folder / "labels.json").write_text(json.dumps(names, indent=1) + "\n")


def sample_labelled(rng: np.random.Generator) -> tuple[Scene, bool]:
    """A scene of nouns and concepts, or (second value True) of one unknown object."""
    words = world_words()
    if rng.random() < OTHER_SHARE:
        return sample_scene(rng, (1.0, 0.0, 0.0, 0.0), words["wide_nouns"]), True
    return sample_scene(rng, nouns=labels()[0]), False


@dataclass(frozen=True)
class LabelledBatches:
    """Callable for ``fit``: pictures with the object and colour of each place, and the word."""

    batch: int

    def __call__(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        nouns, colours, words = labels()
        pictures = np.zeros((self.batch, PICTURE, PICTURE, 3), np.uint8)
        noun_map = np.full((self.batch, PLACES, PLACES), len(nouns) + 2)
        colour_map = np.full((self.batch, PLACES, PLACES), -100)
        word = np.full(self.batch, len(words))
        for i in range(self.batch):
            scene, unknown = sample_labelled(rng)
            pictures[i], boxes = draw(scene, rng)
            for thing, box in zip(scene.things, boxes, strict=True):
                rows, columns = _cells(box)
                noun_map[i, rows, columns] = _noun_class(thing, unknown, nouns)
                colour = len(colours) if thing.colour is None else colours.index(thing.colour)
                colour_map[i, rows, columns] = colour
                if thing.word:
                    word[i] = words.index(thing.word)
            pictures[i] = _degrade(pictures[i], rng)
        maps = (torch.from_numpy(part.reshape(self.batch, -1)) for part in (noun_map, colour_map))
        return torch.from_numpy(pictures), *maps, torch.from_numpy(word)


def _noun_class(thing: Thing, unknown: bool, nouns: list[str]) -> int:
    if thing.noun == "sign":
        return len(nouns)
    return len(nouns) + 1 if unknown else nouns.index(thing.noun)


def _cells(box: np.ndarray) -> tuple[slice, slice]:
    """Places whose centre lies in the box, at least one each way."""
    low = np.ceil(box[:2] / CELL - 0.5).astype(int)
    high = np.maximum(np.ceil(box[2:] / CELL - 0.5).astype(int), low + 1)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _degrade(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the pictures get noise and a little brightness: a sketchy cat is still a cat."""
    if rng.random() < 0.5:
        return picture
    noise = rng.normal(0, rng.uniform(0, 12), picture.shape) + rng.uniform(-10, 10)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def train(
    folder: Path, schedule: Schedule, device: torch.device, initial: dict | None = None
) -> JudgeNetwork:
    """Train the judge; see ``fit`` for what is written to folder."""
    nouns, colours, words = labels()

    def loss_of(model: JudgeNetwork, batch):
        pictures, noun_map, colour_map, word = (part.to(device) for part in batch)
        noun_logits, colour_logits, word_logits = model(pictures)
        noun = functional.cross_entropy(noun_logits.flatten(0, 1).float(), noun_map.flatten())
        colour = functional.cross_entropy(colour_logits.flatten(0, 1).float(), colour_map.flatten())
        read = functional.cross_entropy(word_logits.float(), word)
        figures = {"noun": float(noun), "colour": float(colour), "word": float(read)}
        return noun + 0.5 * colour + 0.5 * read, figures

    network = JudgeNetwork(len(nouns), len(colours), len(words))
    batches = LabelledBatches(schedule.batch)
    return fit("judge", folder, network, batches, loss_of, schedule, device,
               initial=initial, compiled=(network.tower,))  # fmt: skip
