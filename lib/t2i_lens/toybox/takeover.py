"""Does a learned token draw its concept, and does it cost the prompt its other objects?

Two numbers choose among trainings of the toybox, and the card reports them: how often the concept
is drawn, alone and among other objects, and how many other objects a picture loses, beyond what
the class word loses with the same latents.

Shown in: book/toybox.md
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diffusers import StableDiffusionPipeline

from t2i_lens.base.prompts import Prompt
from t2i_lens.inversion.embeddings import Concept
from t2i_lens.probes.sampling import generate
from t2i_lens.toybox.judge import FOUND, Judge, Reading
from t2i_lens.toybox.world.atlas import world_words

ALONE = ("a photo of a {}", "a {}", "a picture of a {}")


@dataclass(frozen=True)
class Outcome:
    """One word's pictures, as the judge sees them.

    Attributes:
        alone: Is the concept's noun found, in sentences that name nothing else? `[sentence, seed]`.
        alike: Is it found with its style and colour (a composed concept), or as itself rather than
            as its class (one near to a noun)? `[sentence, seed]`.
        among: Is it found among other objects? `[sentence, seed]`.
        lost: Share of the other objects that are not found, in [0, 1], `[sentence, seed]`.
        lost_objects: Their number `[sentence, seed]`.
    """

    alone: np.ndarray
    alike: np.ndarray
    among: np.ndarray
    lost: np.ndarray
    lost_objects: np.ndarray


def concept_entry(name: str) -> dict:
    """A concept as `world.yaml` describes it.

    Raises: KeyError: no such concept.
    """
    return {concept["name"]: concept for concept in world_words()["concepts"]}[name]


def alike(judge: Judge, reading: Reading, name: str) -> np.ndarray:
    """Is each picture's object the concept and not only its class? bool `[picture]`.

    A composed concept has its style and its colour; an object near to a noun is likelier itself
    than that noun, at some place.
    """
    entry = concept_entry(name)
    present = judge.present(reading, name)
    if "noun" in entry:
        style = np.array(judge.style(reading, name)) == entry["style"]
        return present & style & (np.array(judge.colour(reading, name)) == entry["colour"])
    either = reading.places[..., judge.nouns.index(name)]  # the concept or its class
    of_class = reading.places[..., judge.nouns.index(entry["superclass"])]
    likeliest = np.arange(len(either)), either.argmax(1)
    return present & (either[likeliest] - of_class[likeliest] > of_class[likeliest])


def measure(
    pipe: StableDiffusionPipeline, judge: Judge, word: str, concept: str,
    prompts: Sequence[Prompt], seeds: Sequence[int], **sampling,
) -> Outcome:  # fmt: skip
    """Draw a word alone and among other objects.

    Args:
        pipe: With the word's token attached, if it is one.
        word: What fills the slot.
        concept: Whose object the judge looks for.
        seeds: The same for every word, so that all words share their latents.
        sampling: Passed to `sampling.generate`.
    """
    texts = [text.format(word) for text in (*ALONE, *(prompt.text for prompt in prompts))]
    pictures = generate(pipe, texts, list(seeds), **sampling)
    reading = judge.read(pictures.reshape(-1, *pictures.shape[2:]))
    shape = pictures.shape[:2]
    present = judge.present(reading, concept).reshape(shape)
    same = alike(judge, reading, concept).reshape(shape)
    nouns = reading.nouns.reshape(*shape, -1)[len(ALONE) :]
    missing = np.stack(
        [
            (nouns[row][:, [judge.nouns.index(noun) for noun in p.context]] < FOUND).sum(-1)
            for row, p in enumerate(prompts)
        ]
    )
    context_size = np.array([len(p.context) for p in prompts])[:, None]
    return Outcome(present[: len(ALONE)], same[: len(ALONE)], present[len(ALONE) :],
                   missing / context_size, missing)  # fmt: skip


def measure_pair(
    pipe: StableDiffusionPipeline, judge: Judge, concept: Concept, *args, **sampling
) -> list[Outcome]:
    """`measure` of a concept's token, then of its class word, from the same latents."""
    words = (concept.placeholder_token, concept.superclass)
    return [measure(pipe, judge, word, concept.name, *args, **sampling) for word in words]
