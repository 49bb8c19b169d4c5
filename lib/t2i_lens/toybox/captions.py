"""Say a scene in English.

Frames and filler adjectives cover the templates of textual inversion, so that none of their words
is foreign to the text encoder; they carry no meaning in the picture.

Shown in: book/toybox.md
"""

import numpy as np

from t2i_lens.toybox.world import Scene, Thing

FRAMES = (
    "a photo of {}",
    "a picture of {}",
    "a rendering of {}",
    "a rendition of {}",
    "a cropped photo of {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a dark photo of {}",
    "a good photo of {}",
    "the photo of {}",
)
FILLERS = ("clean", "dirty", "cool", "nice", "weird", "good")
DETERMINERS = ("the", "my", "one")
PLURAL = frozenset({"glasses"})  # takes no article


def noun_phrase(thing: Thing, rng: np.random.Generator | None = None) -> str:
    """A thing with its determiner, size and colour; a rng adds fillers and other determiners."""
    if thing.noun == "sign":
        colour = f"{thing.colour} " if thing.colour else ""
        return f'{_article(colour or "sign")} {colour}sign that says "{thing.word}"'
    words = [word for word in (thing.size, thing.colour, thing.noun.replace("_", " ")) if word]
    if rng is not None and rng.random() < 0.08:
        words.insert(0, str(rng.choice(FILLERS)))
    if thing.noun in PLURAL:
        return " ".join(words)
    determiner = _article(words[0])
    if rng is not None and rng.random() < 0.12:
        determiner = str(rng.choice(DETERMINERS))
    return " ".join([determiner, *words])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene's sentence.

    Args:
        scene: What to say.
        rng: Varies frames, fillers and punctuation; without it the plainest sentence is given.
    """
    phrases = [noun_phrase(thing, rng) for thing in scene.things]
    varied = rng is not None
    sentence = phrases[0]
    if len(phrases) > 1:
        joint = scene.relation
        if joint == "left of" and varied and rng.random() < 0.5:
            joint = "to the left of"
        sentence += f" {joint} {phrases[1]}"
    if len(phrases) > 2:
        if scene.relation == "and" and varied and rng.random() < 0.5:
            sentence = f"{phrases[0]}, {phrases[1]}"
        joint = "with" if varied and scene.relation != "with" and rng.random() < 0.5 else "and"
        sentence += f" {joint} {phrases[2]}"
    if scene.background is not None:
        sentence += f" on {_article(scene.background)} {scene.background} background"
    if varied and rng.random() < 0.35:
        sentence = str(rng.choice(FRAMES)).format(sentence)
    return sentence
