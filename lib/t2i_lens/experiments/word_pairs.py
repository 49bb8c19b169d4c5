"""Word pairs of a prompt: which words belong together, and their token positions."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from t2i_lens.experiments.prompt_sets import Pair, PairedPrompt, pair_positions
from t2i_lens.models.tokens import encode

SWAPPED_JOINT = " and "


def word_pairs(pipe, prompts: Sequence[dict]) -> pd.DataFrame:
    """Every annotated pair of every prompt.

    Args:
        pipe: Its tokenizer says where words stand.
        prompts: `text`, `bound` and `unbound`, as in `PairedPrompt`.

    Returns:
        A row per pair: `prompt`, its number; `kind`, "bound" (attribute and its noun),
        "crossed" (attribute and another noun), "nouns" or "attributes"; `first` and `second`,
        the words as annotated; `key` and `query`, the positions of the earlier and the later
        one. A word of several pieces stands at its last, which has seen them all.

    Raises:
        ValueError: a word is missing, or stands there twice.
    """
    rows = []
    for number, prompt in enumerate(prompts):
        row = encode(pipe, prompt["text"])
        attributes = {first for first, _ in prompt["bound"]}
        for group in ("bound", "unbound"):
            for pair in prompt[group]:
                places = sorted(of_word[-1] for of_word in pair_positions(row, tuple(pair)))
                kind = "bound" if group == "bound" else _unbound_kind(pair, attributes)
                rows.append((number, kind, *pair, *places))
    columns = ["prompt", "kind", "first", "second", "key", "query"]
    return pd.DataFrame(rows, columns=columns)


def _unbound_kind(pair: Sequence[str], attributes: set[str]) -> str:
    count = sum(word in attributes for word in pair)
    return ("nouns", "crossed", "attributes")[count]


def exchanged(prompt: PairedPrompt) -> PairedPrompt:
    """The same phrases in the other order: "a blue car and a red hat" of "a red hat and …".

    Raises:
        ValueError: they are not joined by "and".
    """
    halves = prompt.text.split(SWAPPED_JOINT)
    if len(halves) != 2:
        raise ValueError(f"{prompt.text!r} is not two phrases joined by 'and'")
    return replace(prompt, text=SWAPPED_JOINT.join(halves[::-1]))


def adjoining(prompt: PairedPrompt) -> PairedPrompt:
    """Two coloured objects without a joining word: "a red hat blue car".

    Its bound pairs, and the one pair across the phrases that is kept as unbound, are all direct
    neighbours, so that distance cannot tell them apart.

    Raises:
        ValueError: it is not two coloured objects joined by "and".
    """
    halves = prompt.text.split(SWAPPED_JOINT)
    if len(halves) != 2 or len(prompt.bound) != 2:
        raise ValueError(f"{prompt.text!r} is not two coloured objects joined by 'and'")
    (_, noun), (colour, _) = prompt.bound
    second = [word for word in halves[1].split() if word not in ("a", "an")]
    text = " ".join([halves[0], *second])
    return PairedPrompt(text, prompt.bound, ((colour, noun),))


def with_word(prompt: PairedPrompt, noun: str, word: str) -> PairedPrompt:
    """The prompt with another word in a noun's place, in its text and in its pairs.

    Raises:
        ValueError: the noun is not there, or the word already is.
    """
    words = prompt.text.split()
    if noun not in words or word in words:
        raise ValueError(f"{word!r} cannot take the place of {noun!r} in {prompt.text!r}")

    def put(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return tuple((word if a == noun else a, word if b == noun else b) for a, b in pairs)

    text = " ".join(word if each_word == noun else each_word for each_word in words)
    return PairedPrompt(text, put(prompt.bound), put(prompt.unbound), prompt.relation)
