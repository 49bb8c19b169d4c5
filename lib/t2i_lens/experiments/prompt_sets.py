"""Prompt sets with annotated word pairs; the annotations are true by construction.

The structures are those of Attend-and-Excite (two animals; an animal and an object; two coloured
objects), relations in both orders, and signs with a source and a target word. The words are ours,
one list per profile. `python -m t2i_lens.experiments.prompt_sets` writes the files again.
"""

from dataclasses import dataclass
from itertools import combinations, cycle, product
from pathlib import Path

import numpy as np
import yaml

from t2i_lens.base.paths import DATA
from t2i_lens.base.prompts import Prompt
from t2i_lens.models.profiles import get
from t2i_lens.models.tokens import TokenRow

FOLDER = DATA / "prompts"
SETS = ("toybox", "sd")  # by `ModelProfile.world`
SIMPLE = 'a sign that says "{}"'
VALIDATION_SHARE = 0.25  # of the sign words; the others are the test bucket
RELATED_PAIRS = 8  # pairs of nouns per relation, each said in both orders
SEED = 42
# Ordinary nouns that take a token's place as its control; none is a class word or a context noun.
OTHER_NOUNS = tuple("penguin guitar mushroom bell pig rocket hat cake boat".split())

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairedPrompt:
    """A sentence and the pairs among its content words.

    Attributes:
        text: The sentence; each content word stands in it once.
        bound: Pairs (attribute, noun) of one phrase.
        unbound: All other pairs of content words: attribute and noun of different phrases, two
            nouns, two attributes. An attribute comes before a noun, equals in reading order.
        relation: What holds between the two nouns, if it is not "and" or "with".
    """

    text: str
    bound: tuple[Pair, ...]
    unbound: tuple[Pair, ...]
    relation: str | None = None


@dataclass(frozen=True)
class SignPrompt:
    """A template with one slot `{}`, the word on the sign, and the word to put in its place."""

    template: str
    source: str
    target: str

    @property
    def source_text(self) -> str:
        return self.template.replace("{}", self.source)

    @property
    def target_text(self) -> str:
        return self.template.replace("{}", self.target)


def phrase(noun: str, colour: str | None = None, plural: bool = False) -> str:
    """A noun with its colour and its article."""
    words = [colour, noun] if colour else [noun]
    article = [] if plural else ["an" if words[0][0] in "aeiou" else "a"]
    return " ".join([*article, *words])


def paired(
    words: dict, first: tuple, second: tuple, joint: str = "and", relation: str | None = None
) -> PairedPrompt:
    """The sentence "first joint second" with its pairs.

    Args:
        words: A profile's entry in `words.yaml`.
        first: Colour (or None) and noun.
        second: As first.
        joint: What stands between them.
    """
    (colour_1, noun_1), (colour_2, noun_2) = first, second
    phrases = [phrase(noun, colour, noun in words["plural"]) for colour, noun in (first, second)]
    bound = [thing for thing in (first, second) if thing[0]]
    crossed = [(c, n) for c, n in ((colour_1, noun_2), (colour_2, noun_1)) if c]
    equals = [(noun_1, noun_2)] + [(colour_1, colour_2)] * bool(colour_1 and colour_2)
    return PairedPrompt(f" {joint} ".join(phrases), (*bound,), (*crossed, *equals), relation)


def animals(words: dict) -> list[PairedPrompt]:
    """Every pair of animals: "a cat and a dog"."""
    return [paired(words, (None, a), (None, b)) for a, b in combinations(words["animals"], 2)]


def animals_objects(words: dict, rng: np.random.Generator) -> list[PairedPrompt]:
    """Every animal with every object: worn ones "with" it, others in a random colour "and"."""
    prompts = []
    for animal, thing in product(words["animals"], words["objects"]):
        worn = thing in words["worn"]
        colour = None if worn else str(rng.choice(words["colours"]))
        joint = "with" if worn else "and"
        prompts.append(paired(words, (None, animal), (colour, thing), joint))
    return prompts


def objects(words: dict, rng: np.random.Generator) -> list[PairedPrompt]:
    """Every pair of objects, each in a colour of its own: "a red car and a blue clock"."""
    prompts = []
    for pair in combinations(words["objects"], 2):
        order = [str(noun) for noun in rng.permutation(pair)]
        colours = [str(colour) for colour in rng.choice(words["colours"], 2, replace=False)]
        prompts.append(paired(words, (colours[0], order[0]), (colours[1], order[1])))
    return prompts


def relations(words: dict, rng: np.random.Generator) -> list[PairedPrompt]:
    """Pairs of nouns for each relation, each pair in both orders, one after the other."""
    prompts = []
    for relation in words["relations"]:
        for _ in range(RELATED_PAIRS):
            nouns = rng.choice([*words["animals"], *words["objects"]], 2, replace=False)
            for a, b in (nouns, nouns[::-1]):
                prompts.append(paired(words, (None, str(a)), (None, str(b)), relation, relation))
    return prompts


def signs(words: dict, rng: np.random.Generator) -> dict[str, dict[str, list[SignPrompt]]]:
    """Bucket -> "simple" or "creative" -> prompts, source and target of the same bucket.

    Inside a bucket the targets are the sources in another order, none in its own place. The simple
    set has one template for all words, the creative one a frame for each word in turn.
    """
    order = [str(word) for word in rng.permutation(words["signs"])]
    cut = round(VALIDATION_SHARE * len(order))
    sets = {}
    for bucket, sources in (("validation", order[:cut]), ("test", order[cut:])):
        pairs = list(zip(sources, _deranged(sources, rng), strict=True))
        framed = zip(cycle(words["frames"]), pairs, strict=False)
        sets[bucket] = {
            "simple": [SignPrompt(SIMPLE, *pair) for pair in pairs],
            "creative": [SignPrompt(frame, *pair) for frame, pair in framed],
        }
    return sets


def _deranged(words: list[str], rng: np.random.Generator) -> list[str]:
    while True:
        shuffled = [str(word) for word in rng.permutation(words)]
        if all(a != b for a, b in zip(words, shuffled, strict=True)):
            return shuffled


def sentences(words: dict) -> dict[str, list[PairedPrompt]]:
    """All paired sets of a profile by name, each with a generator of its own."""
    return {
        "animals": animals(words),
        "animals_objects": animals_objects(words, np.random.default_rng([SEED, 1])),
        "objects": objects(words, np.random.default_rng([SEED, 2])),
        "relations": relations(words, np.random.default_rng([SEED, 3])),
    }


def read_words(profile: str, folder: Path = FOLDER) -> dict:
    """A profile's words.

    Raises:
        ValueError: no such profile.
    """
    return yaml.safe_load((folder / "words.yaml").read_text())[set_of(profile)]


def rendered(profile: str, folder: Path = FOLDER) -> str:
    """The file of a profile's prompt sets, generated from its words: a prompt on each line."""
    words = read_words(profile, folder)
    lines = [
        "# Written by `python -m t2i_lens.experiments.prompt_sets` from words.yaml; do not edit."
    ]
    for name, prompts in sentences(words).items():
        lines.append(f"{name}:")
        for p in prompts:
            fields = {"text": p.text, "bound": p.bound, "unbound": p.unbound}
            lines.append(_line(fields | ({"relation": p.relation} if p.relation else {}), 2))
    lines.append("signs:")
    for bucket, kinds in signs(words, np.random.default_rng([SEED, 4])).items():
        lines.append(f"  {bucket}:")
        for kind, prompts in kinds.items():
            lines.append(f"    {kind}:")
            lines += [_line(vars(prompt), 6) for prompt in prompts]
    return "\n".join(lines) + "\n"


def _line(fields: dict, indent: int) -> str:
    plain = {k: [list(p) for p in v] if isinstance(v, tuple) else v for k, v in fields.items()}
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000)
    return " " * indent + "- " + text.strip()


def load_prompts(name: str, file: Path = DATA / "prompts" / "prompts.yaml") -> list[Prompt]:
    """A prompt set by name.

    Raises:
        ValueError: no such set, or a prompt without exactly one slot and a context noun that its
            text holds.
    """
    sets = yaml.safe_load(Path(file).read_text())
    if name not in sets:
        raise ValueError(f"no prompt set '{name}' in {file}; there are {', '.join(sets)}")
    prompts = [Prompt(entry["text"], tuple(entry["context"])) for entry in sets[name]]
    for prompt in prompts:
        words = prompt.text.split()
        if words.count("{}") != 1 or not prompt.context or not set(prompt.context) <= set(words):
            raise ValueError(f"prompt '{prompt.text}' needs one {{}} and its context nouns")
    return prompts


def load_pairs(profile: str, name: str, folder: Path = FOLDER) -> list[PairedPrompt]:
    """A paired set: `animals`, `animals_objects`, `objects` or `relations`.

    Raises:
        ValueError: no such profile or set.
    """
    sets = _read(profile, folder)
    names = [key for key in sets if key != "signs"]
    if name not in names:
        raise ValueError(f"no paired set '{name}'; there are {', '.join(names)}")
    return [
        PairedPrompt(
            entry["text"],
            tuple((a, b) for a, b in entry["bound"]),
            tuple((a, b) for a, b in entry["unbound"]),
            entry.get("relation"),
        )
        for entry in sets[name]
    ]


def load_signs(profile: str, bucket: str, kind: str, folder: Path = FOLDER) -> list[SignPrompt]:
    """Sign prompts of a bucket (`validation` or `test`) and kind (`simple` or `creative`).

    Raises:
        ValueError: no such profile, bucket or kind.
    """
    sets = _read(profile, folder)["signs"]
    if kind not in sets.get(bucket, {}):
        raise ValueError(f"no sign prompts '{bucket}', '{kind}'; there are {', '.join(sets)}")
    return [SignPrompt(**entry) for entry in sets[bucket][kind]]


def set_of(profile: str) -> str:
    """Name of a profile's set of words and sentences: its world's own, or the one for all others.

    Raises:
        ValueError: no such profile or set.
    """
    return profile if profile in SETS else get(profile).world


def _read(profile: str, folder: Path) -> dict:
    return yaml.safe_load((folder / f"{set_of(profile)}.yaml").read_text())


def pair_positions(row: TokenRow, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token positions of the two words of a pair, all pieces of each.

    Raises:
        ValueError: a word is missing, or stands there twice so that the pair is ambiguous.
    """
    for word in pair:
        if sum(of_row.text == word for of_row in row.words) > 1:
            raise ValueError(f"'{word}' stands more than once in {row.prompt!r}")
    return row.positions(pair[0]), row.positions(pair[1])


if __name__ == "__main__":
    for name in SETS:
        (FOLDER / f"{name}.yaml").write_text(rendered(name))
