"""Prompts as token rows, and words as token positions.

Positions are found in the ids themselves and never by tokenising a string again: a placeholder of
several vectors takes several positions, and names in upper case or names that begin with another
placeholder's name would otherwise be expanded wrongly or not at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from tokenizers import AddedToken
from torch import nn
from transformers import CLIPTokenizer

PUNCTUATION = ".,;:!?'\"()[]"  # stands around a word without being part of it
SIGNS = PUNCTUATION + "“”‘’/&"  # also between words: and/or
HYPHENS = "-‐‑–—"
NUMBER = re.compile(r"[#$£€]?\d[\d%+-]*(st|nd|rd|th|s|d|k|x|px|mm|cm|m)?")
APOSTROPHE = re.compile(r"[^\W_]+['’][^\W_]*")  # don't, cat's


class Word(NamedTuple):
    """A word of the prompt, lower-cased as CLIP reads it, with its token positions."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class TokenRow:
    """The token row of one prompt, as the text encoder reads it.

    Attributes:
        prompt: The text as written.
        ids: Ids of all 77 positions: BOS, content, EOS, padding.
        pieces: The vocabulary's entry for each id; `</w>` ends a word.
        words: Words in reading order. A placeholder is one word, whatever its vectors.
        eos: Position of the first EOS. BOS is at 0.
    """

    prompt: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    words: tuple[Word, ...]
    eos: int
    bos: int = 0

    @property
    def padding(self) -> slice:
        """Positions after EOS, in CLIP mostly further EOS tokens."""
        return slice(self.eos + 1, len(self.ids))

    def positions(self, word: str) -> tuple[int, ...]:
        """Positions of a word or of several words in sequence, at every occurrence.

        Args:
            word: As written in the prompt; case is ignored unless it tells two apart.

        Raises:
            ValueError: the row does not hold it.
        """
        wanted = word.split()
        texts = [w.text for w in self.words]
        # A placeholder's name keeps its case, so the exact spelling is tried first.
        for spelling in (str, str.casefold):
            target, written = [spelling(w) for w in wanted], [spelling(t) for t in texts]
            starts = [
                i
                for i in range(len(written) - len(target) + 1)
                if target and written[i : i + len(target)] == target
            ]
            if starts:
                hits = (w for i in starts for w in self.words[i : i + len(wanted)])
                return tuple(dict.fromkeys(p for w in hits for p in w.positions))
        raise ValueError(f"no word {word!r} in {self.prompt!r}; its words are {texts}")


def text_towers(pipe: DiffusionPipeline) -> list[tuple[CLIPTokenizer, nn.Module]]:
    """Tokenizer and text encoder of each CLIP tower: one in Stable Diffusion, two in SDXL, SD3."""
    towers = []
    for suffix in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        if isinstance(tokenizer, CLIPTokenizer):
            towers.append((tokenizer, getattr(pipe, f"text_encoder{suffix}")))
    return towers


def encode(pipe: DiffusionPipeline, prompt: str) -> TokenRow:
    """The row of ids for a prompt, with every placeholder expanded to all its vectors.

    A prompt whose placeholders are already written out (`<t> <t>_1`) gives the same row. Of a
    pipeline with several text encoders it is the first one's; see `encode_with`.

    Raises:
        ValueError: the prompt does not fit, so part of it would be lost.
    """
    return encode_with(pipe.tokenizer, prompt)


def encode_with(tokenizer: CLIPTokenizer, prompt: str) -> TokenRow:
    """As `encode`, for one tokenizer."""
    groups = _placeholder_groups(tokenizer)
    raw = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    content = list(_expanded(raw, groups))
    length, room = tokenizer.model_max_length, tokenizer.model_max_length - 2
    if len(content) > room:
        raise ValueError(f"prompt has {len(content)} tokens, {room} fit: shorten {prompt[:60]!r}")
    ids = [tokenizer.bos_token_id, *content, tokenizer.eos_token_id]
    eos = ids.index(tokenizer.eos_token_id)  # a prompt may spell one out
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    return TokenRow(
        prompt=prompt,
        ids=tuple(ids),
        pieces=tuple(tokenizer.convert_ids_to_tokens(ids)),
        words=tuple(_words(tokenizer, content, groups)),
        eos=eos,
    )


def token_table(pipe, prompt: str) -> pd.DataFrame:
    """The token row of a prompt up to EOS: columns position, id, piece."""
    row = encode(pipe, prompt)
    count = row.eos + 1
    columns = {"position": range(count), "id": row.ids[:count], "piece": row.pieces[:count]}
    return pd.DataFrame(columns)


def add_placeholder(
    pipe: DiffusionPipeline, placeholder: str, num_vectors: int = 1
) -> tuple[int, ...]:
    """Gives a placeholder its tokens and zeroed rows in the embedding table of each CLIP tower.

    The tokens are `<t>`, `<t>_1`, … `<t>_{n-1}`, as diffusers names them. No other row
    changes.

    Returns:
        The new ids, one per vector; the towers share them, as they share a vocabulary.

    Raises:
        ValueError: the name is unusable, or it or one of its tokens is taken.
    """
    towers = text_towers(pipe)
    for _, encoder in towers:
        if encoder.get_input_embeddings().weight.is_meta:
            raise ValueError("the text encoder is offloaded: attach placeholders before that")
    if not towers or any(len(t.get_vocab()) != len(towers[0][0].get_vocab()) for t, _ in towers):
        raise ValueError(f"{type(pipe).__name__} has no CLIP towers with one common vocabulary")
    for tokenizer, encoder in towers:
        ids = _add_to_tower(tokenizer, encoder, placeholder, num_vectors)
    return ids


def is_ordinary(tokenizer: CLIPTokenizer, name: str) -> bool:
    """Whether a name is a word or number that ordinary prompts hold, or a sign of punctuation.

    CLIP's vocabulary has a word as an entry of its own, such as `umbrella</w>`, in lower case. A
    hyphen may divide an entry (`t-shirt`), signs may stand between several (`and/or`), and a word
    with an apostrophe is ordinary whatever its parts.

    Not decided: a compound that is no entry, such as `birdhouse` or `x-ray`. Its parts are
    words, but so are those of `easynegative` and `cat-toy`, which are names of public tokens.
    """
    text = name.strip(SIGNS).lower()
    if any(APOSTROPHE.fullmatch(part) for part in re.split(f"[{HYPHENS}]", text)):
        return True
    parts = filter(None, re.split(f"[{re.escape(SIGNS)}]+", text))
    return all(NUMBER.fullmatch(part) or _is_entry(tokenizer, part) for part in parts)


def _is_entry(tokenizer: CLIPTokenizer, text: str) -> bool:
    undivided = re.sub(f"(?<=\\w)[{HYPHENS}](?=\\w)", "", text)
    found = (tokenizer.tokenize(some) for some in (text, undivided))
    return any(not some or (len(some) == 1 and some[0].endswith("</w>")) for some in found)


def check_name(tokenizer: CLIPTokenizer, placeholder: str, num_vectors: int) -> None:
    """Refuse a placeholder that a tokenizer could not read, or that would change other prompts.

    Raises:
        ValueError: as `add_placeholder`.
    """
    if num_vectors < 1 or placeholder.split() != [placeholder]:
        raise ValueError(f"placeholder {placeholder!r} needs no blanks and at least one vector")
    if not placeholder.isprintable():
        raise ValueError(f"placeholder {placeholder!r} holds control characters: rename it")
    names = _token_names(placeholder, num_vectors)
    vocabulary = tokenizer.get_vocab()
    # The token after the last would be read as one more vector of this placeholder, and a
    # name like `<t>_1` as a vector of `<t>`.
    stem = re.fullmatch(r"(.+)_\d+", placeholder)
    related = [*names, f"{placeholder}_{num_vectors}", *([stem[1]] if stem else [])]
    existing = [name for name in related if name in vocabulary]
    if existing:
        raise ValueError(
            f"token {existing[0]!r} is already in the vocabulary: rename {placeholder!r}"
        )
    if is_ordinary(tokenizer, placeholder):
        raise ValueError(f"{placeholder!r} would replace an ordinary word in prompts: rename it")
    if placeholder[0] in HYPHENS or placeholder[-1] in HYPHENS:
        raise ValueError(f"{placeholder!r} begins or ends with a hyphen: rename it")


def add_names(tokenizer: CLIPTokenizer, placeholder: str, num_vectors: int) -> tuple[int, ...]:
    """Gives a placeholder its tokens in one tokenizer; no model is changed.

    Returns:
        The new ids, one per vector.

    Raises:
        ValueError: as `add_placeholder`.
    """
    check_name(tokenizer, placeholder, num_vectors)
    names = _token_names(placeholder, num_vectors)
    # Not normalised: the lower-casing tokenizer would otherwise lose names in upper case.
    # A name with a letter at either edge must not match inside another word.
    bare = re.search(r"^\w|\w$", placeholder) is not None
    tokenizer.add_tokens([AddedToken(n, normalized=False, single_word=bare) for n in names])
    return tuple(tokenizer.convert_tokens_to_ids(names))


def _add_to_tower(
    tokenizer: CLIPTokenizer, encoder: nn.Module, placeholder: str, num_vectors: int
) -> tuple[int, ...]:
    ids = add_names(tokenizer, placeholder, num_vectors)
    table = encoder.get_input_embeddings().weight
    if max(ids) >= len(table):
        trained = table.requires_grad
        encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        encoder.get_input_embeddings().weight.requires_grad_(trained)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[list(ids)] = 0
    return ids


def _token_names(placeholder: str, num_vectors: int) -> list[str]:
    return [placeholder, *(f"{placeholder}_{i}" for i in range(1, num_vectors))]


def _placeholder_groups(tokenizer: CLIPTokenizer) -> dict[int, tuple[int, ...]]:
    """Ids of all vectors by the id of the first, for every token added to the vocabulary."""
    added = tokenizer.get_added_vocab()
    groups = {}
    for name, first in added.items():
        count = 1
        while f"{name}_{count}" in added:
            count += 1
        groups[first] = tuple(added[n] for n in _token_names(name, count))
    return groups


def _expanded(ids: list[int], groups: dict[int, tuple[int, ...]]) -> Iterator[int]:
    position = 0
    while position < len(ids):
        group = groups.get(ids[position], (ids[position],))
        # One that is written out already is passed over whole, not expanded again.
        position += len(group) if tuple(ids[position : position + len(group)]) == group else 1
        yield from group


def _words(
    tokenizer: CLIPTokenizer, content: list[int], groups: dict[int, tuple[int, ...]]
) -> Iterator[Word]:
    begin = 0
    while begin < len(content):
        if content[begin] in groups:
            end = begin + len(groups[content[begin]])
            text = tokenizer.convert_ids_to_tokens(content[begin])
        else:
            end = begin + 1
            while end < len(content) and not _ends_word(tokenizer, content[end - 1]):
                end += 1
            text = tokenizer.decode(content[begin:end])
        yield Word(text, tuple(range(begin + 1, end + 1)))  # BOS stands before the content
        begin = end


def _ends_word(tokenizer: CLIPTokenizer, token: int) -> bool:
    return tokenizer.convert_ids_to_tokens(token).endswith("</w>")
