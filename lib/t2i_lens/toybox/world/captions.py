"""Say a scene in English, completely or as people do.

Frames and filler adjectives cover the templates of textual inversion, so that none of their words
is foreign to the text encoder; they carry no meaning in the picture.

Shown in: book/toybox.md
"""

from dataclasses import dataclass, replace

import numpy as np

from t2i_lens.toybox.world.atlas import world_words
from t2i_lens.toybox.world.scenes import Scene, Thing

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
STYLE_FRAME = "{} in the style of {}"
FILLERS = ("clean", "dirty", "cool", "nice", "weird", "good")
DETERMINERS = ("the", "my", "one")
PLURAL = frozenset({"glasses"})  # takes no article
SYMMETRIC = ("next to", "with", "and")


@dataclass(frozen=True)
class Care:
    """How careless captions are: rates, each in [0, 1].

    Attributes:
        omitted: One of several objects is left out.
        absent: An object is named that is not there.
        unsaid: Each colour, size and ground is left out.
        unstyled: The style of each thing is left out.
        exchanged: Two objects change places in a sentence that states an order.
    """

    omitted: float = 0.15
    absent: float = 0.08
    unsaid: float = 0.25
    unstyled: float = 0.6
    exchanged: float = 0.05


COMPLETE = Care(0.0, 0.0, 0.0, 0.0, 0.0)
CARELESS = Care()


def noun_phrase(thing: Thing, rng: np.random.Generator | None = None, styled: bool = True) -> str:
    """A thing with its determiner, size, style and colour; a rng adds fillers and determiners."""
    if thing.noun == "sign":
        colour = f"{thing.colour} " if thing.colour else ""
        return f'{_article(colour or "sign")} {colour}sign that says "{thing.word}"'
    style = thing.style if styled else None
    stated = (thing.size, style, thing.colour, thing.noun.replace("_", " "))
    words = [word for word in stated if word]
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
    """The scene's sentence, which says all that the scene states.

    Args:
        scene: What to say.
        rng: Varies frames, fillers and punctuation; without it the plainest sentence is given.
    """
    varied = rng is not None
    # A style that all share is said once, or with each thing.
    once = varied and scene.style is not None and rng.random() < 0.4
    phrases = [noun_phrase(thing, rng, styled=not once) for thing in scene.things]
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
    if once:
        return STYLE_FRAME.format(sentence, scene.style)
    if varied and rng.random() < 0.35:
        sentence = str(rng.choice(FRAMES)).format(sentence)
    return sentence


def careless(scene: Scene, rng: np.random.Generator, care: Care = CARELESS) -> Scene:
    """The scene as somebody describes it who leaves things out, and errs.

    Captions of found pictures are like this: a model that learned from complete ones has a place
    in the sentence for all that it sees.
    """

    def kept(value: str | None, rate: float) -> str | None:
        return None if value is None or rng.random() < rate else value

    unstyled = rng.random() < care.unstyled
    things = [
        replace(
            thing,
            colour=kept(thing.colour, care.unsaid),
            size=kept(thing.size, care.unsaid),
            style=None if unstyled else thing.style,
        )
        for thing in scene.things
    ]
    relation = scene.relation
    if len(things) > 1 and rng.random() < care.omitted:
        omitted = int(rng.integers(len(things)))
        del things[omitted]
        if omitted < 2:  # what held between the first two holds no more
            relation = "and" if len(things) > 1 else None
    if 1 <= len(things) < 3 and rng.random() < care.absent:
        present = {thing.noun for thing in scene.things}
        free = [noun for noun in world_words()["nouns"] if noun not in present]
        things.append(Thing(str(rng.choice(free))))
        relation = relation or str(rng.choice(SYMMETRIC))
    symmetric = len(things) > 1 and relation in SYMMETRIC
    if len(things) > 1 and rng.random() < (0.5 if symmetric else care.exchanged):
        things[:2] = things[1::-1]
    return replace(scene, things=tuple(things), relation=relation,
                   background=kept(scene.background, care.unsaid))  # fmt: skip


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
        if scene.relation in ("left of", "above", "on top of") and not second.word:
            options.append([second, first])
    if not options or rng.random() < 0.3:
        if first.word:
            options = [[replace(first, word=_other(words["words"], first.word, rng))]]
        elif rng.random() < 0.5:
            present = {thing.noun for thing in things}
            free = [noun for noun in words["nouns"] if noun not in present]
            options = [[replace(first, noun=str(rng.choice(free)), style=None)]]
        else:
            colours = list(words["colours"])[:7]
            options = [[replace(first, colour=_other(colours, first.colour, rng))]]
    changed = options[int(rng.integers(len(options)))]
    return replace(scene, things=(*changed, *things[len(changed) :]))


def _other(choices: list[str], current: str | None, rng: np.random.Generator) -> str:
    return str(rng.choice([choice for choice in choices if choice != current]))
