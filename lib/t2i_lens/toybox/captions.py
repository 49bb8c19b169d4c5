"""Say a scene in English.

Frames and filler adjectives cover the templates of textual inversion, so that none of their words
is foreign to the text encoder; they carry no meaning in the picture.

Shown in: book/toybox.md
"""

from dataclasses import replace

import numpy as np

from t2i_lens.toybox.atlas import world_words
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
SKETCH_FRAMES = ("a sketch of {}", "a pencil sketch of {}", "{} in the style of a sketch")
PHOTO_SUFFIX = "{} in the style of a photo"
UNSAID = 0.3  # of the colours, sizes and backgrounds that a careless writer leaves out
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
    if scene.style == "sketch":
        return (str(rng.choice(SKETCH_FRAMES)) if varied else SKETCH_FRAMES[0]).format(sentence)
    if varied and rng.random() < 0.04:
        return PHOTO_SUFFIX.format(sentence)
    if varied and rng.random() < 0.35:
        sentence = str(rng.choice(FRAMES)).format(sentence)
    return sentence


def careless(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene as somebody describes it who leaves out some colours, sizes and backgrounds.

    Captions of found pictures are like this; without it the contrastive space ranks a tint above
    the noun, because no caption of a tinted object ever lacks its colour.
    """

    def kept(value: str | None) -> str | None:
        return None if value is None or rng.random() < UNSAID else value

    things = tuple(replace(t, colour=kept(t.colour), size=kept(t.size)) for t in scene.things)
    return replace(scene, things=things, background=kept(scene.background))


def twin(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing about it changed: what a bag of words would not notice, if there is.

    Colours exchanged, first and second thing exchanged, else another noun, colour or word. Twins in
    one contrastive batch make the encoder bind colours to nouns (NegCLIP, Yuksekgonul et al. 2023).
    """
    words, things = world_words(), list(scene.things)
    first = things[0]
    options = []
    if len(things) > 1:
        second = things[1]
        if first.colour != second.colour and not (first.word or second.word):
            options.append(
                [replace(first, colour=second.colour), replace(second, colour=first.colour)]
            )
        if scene.relation in ("left of", "above", "on top of"):
            options.append([second, first])
    if not options or rng.random() < 0.3:
        if first.word:
            options = [[replace(first, word=_other(words["words"], first.word, rng))]]
        elif rng.random() < 0.5:
            taken = {thing.noun for thing in things}
            free = [noun for noun in words["nouns"] if noun not in taken]
            options = [[replace(first, noun=str(rng.choice(free)))]]
        else:
            colours = list(words["colours"])[:7]
            options = [[replace(first, colour=_other(colours, first.colour, rng))]]
    changed = options[int(rng.integers(len(options)))]
    return replace(scene, things=(*changed, *things[len(changed) :]))


def _other(choices: list[str], taken: str | None, rng: np.random.Generator) -> str:
    return str(rng.choice([choice for choice in choices if choice != taken]))
