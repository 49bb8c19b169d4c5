"""The sweep of what localised layers are good for: its tables, where they lie, how they are read.

Tables of words edited in one size, words read in other sizes and numbers, unwanted words,
fine-tuned layers, and layers that decide the style of a sign.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import contents, layer_tuning, style_layers, word_exchange
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.methods.layer_adapters import Training
from t2i_lens.methods.localisation import NONE, Setting, layer_sizes
from t2i_lens.probes.sampling import generate
from t2i_lens.study.subject import Subject

EDITING, READ, UNWANTED = "editing.parquet", "other_sizes.parquet", "unwanted.parquet"
TUNED, SINGLE, STYLE = "tuned.parquet", "single_layers.parquet", "style.parquet"
TABLES = (EDITING, READ, UNWANTED, TUNED, SINGLE, STYLE)  # in the order in which they are made
REMEDY = "run `t2i-lens uses`"
TOGETHER = 2  # pairs in a part of the sweep
OTHER_SEEDS = (2, 3)  # for a repetition
# The OCR engine costs as much as drawing: it reads some of the ways.
READ_EDITING = (
    word_exchange.NONE, word_exchange.LOCALISED, word_exchange.EVERY, "P2P 0.8/0.4",
)  # fmt: skip
READ_UNWANTED = (
    word_exchange.NONE, word_exchange.LOCALISED, word_exchange.EVERY, "negative prompt",
    "safe guidance, medium",
)  # fmt: skip
# A picture drawn in another batch differs by rounding.
TUNING = Training()
STEP_COST = 0.3  # of a training step, in pictures
TOLERANCES = {"new": 0.02, "old": 0.02, "background": 30.0}


@dataclass(frozen=True)
class Part:
    """A part of a table: one call whose result is a data frame.

    Attributes:
        name: Of it, in the provenance.
        measure: Takes the subjects, then `arguments`.
        subjects: Names among `pipe` and `judge`.
        arguments: All others.
        pictures: How many it draws, for the estimate of time.
        constants: Columns that its rows get besides; those of numbers are added to what is there.
    """

    name: str
    measure: Callable[..., pd.DataFrame]
    subjects: tuple[str, ...]
    arguments: dict[str, Any]
    pictures: int | float
    constants: dict[str, Any] = field(default_factory=dict)


class Layers(NamedTuple):
    """Cross-attention layers of a model.

    Attributes:
        every: All of them, in the order in which they run.
        by_word: The same, the largest response to a word first.
        localised: The first of these, which write the word.
    """

    every: list[str]
    by_word: list[str]
    localised: list[str]


def layers_of(store: Cache, subject: Subject) -> Layers:
    """The layers, chosen on validation words as in the chapters on localisation."""
    every = store.cached("sizes", layer_sizes, pipe=subject.pipe)["path"].tolist()
    exchanges = contents.word_exchanges(subject.signs("validation", "creative"))
    found = store.cached(
        "word_layers", contents.find_word_layers, judge=subject.judge, pipe=subject.pipe,
        exchanges=exchanges, seeds=list(word_exchange.SEEDS), **word_exchange.SAMPLING,
    )  # fmt: skip
    return Layers(every, found["order"].tolist(), found["localised"].tolist())


def parts_of(subject: Subject, file: str, layers: Layers) -> list[Part]:
    """The parts of a table.

    Args:
        file: One of `TABLES`; `STYLE` needs the table `SINGLE`.
        layers: From `layers_of`.

    Raises:
        ValueError: no such table.
    """
    signs = subject.signs("test", "creative")
    if file == EDITING:
        ways = word_exchange.editing_ways(layers.every, layers.localised)
        return _measured(word_exchange.editing_pairs(signs), ways, READ_EDITING)
    if file == UNWANTED:
        ways = word_exchange.avoiding_ways(layers.every, layers.localised)
        return _measured(word_exchange.unwanted_pairs(), ways, READ_UNWANTED)
    if file == READ:
        return _read(signs, layers)
    if file == TUNED:
        return _tuned(subject, layers)
    if file == SINGLE:
        return _single(subject, layers)
    if file == STYLE:
        return _growing(subject, layers)
    raise ValueError(f"no table {file!r}; there are {', '.join(TABLES)}")


def _measured(pairs, ways, read) -> list[Part]:
    parts = []
    for start in range(0, len(pairs), TOGETHER):
        some = pairs[start : start + TOGETHER]
        arguments = {
            "pairs": word_exchange.fields_of(some), "ways": word_exchange.fields_of(ways),
            "seeds": list(word_exchange.SEEDS), "read": list(read), **word_exchange.SAMPLING,
        }  # fmt: skip
        # A picture read by the OCR engine costs about as much as one drawn.
        count = len(some) * (len(ways) * len(word_exchange.SEEDS) + len(read))
        parts.append(
            Part(
                f"pairs {start}",
                word_exchange.measure,
                ("judge", "pipe"),
                arguments,
                count,
                {"pair": start},
            )  # fmt: skip
        )
    return parts


def _read(signs, layers: Layers) -> list[Part]:
    ways = [way for way in word_exchange.injections(layers.every, layers.localised)
            if way.name in (word_exchange.LOCALISED, word_exchange.EVERY)]  # fmt: skip
    single = word_exchange.editing_pairs(signs)[: word_exchange.PAIRS_AT_SIZES]
    groups = {"as trained": (single, word_exchange.SEEDS, (64, 64))}
    groups["other latents"] = (single, OTHER_SEEDS, (64, 64))
    for height, width in word_exchange.SIZES:
        groups[f"{height} x {width}"] = (single, word_exchange.SEEDS, (height, width))
    for count in range(2, word_exchange.MOST_WORDS + 1):
        longer = word_exchange.longer_pairs(signs, count)
        groups[f"{count} words"] = (longer, word_exchange.SEEDS, (64, 64))
    parts = []
    for group, (pairs, seeds, (height, width)) in groups.items():
        arguments = {
            "pairs": word_exchange.fields_of(pairs), "ways": word_exchange.fields_of(ways),
            "seeds": list(seeds), "height": height, "width": width, **word_exchange.SAMPLING,
        }  # fmt: skip
        count = len(pairs) * len(seeds) * len(ways) * (1 + height * width / 64**2)
        parts.append(Part(group, word_exchange.read, ("pipe",), arguments, count, {"group": group}))
    return parts


def _tuned(subject: Subject, layers: Layers) -> list[Part]:
    signs = [s for bucket in ("validation", "test") for s in subject.signs(bucket, "creative")]
    prompts = layer_tuning.asked(signs, subject.pairs("objects"))
    taught, _ = layer_tuning.words(signs)
    drawn = len(prompts) * len(layer_tuning.SEEDS)
    return [
        Part(
            f"{way.name}, {way.amount}", layer_tuning.measure, ("judge", "pipe"),
            {
                "prompts": layer_tuning.fields_of(prompts), "taught": taught,
                "way": layer_tuning.fields_of([way])[0], "seeds": list(layer_tuning.SEEDS),
                "training": TUNING, **word_exchange.SAMPLING,
            },
            drawn + STEP_COST * TUNING.steps,
        )
        for way in layer_tuning.ways(layers.every, layers.localised)
    ]  # fmt: skip


def _single(subject: Subject, layers: Layers) -> list[Part]:
    pairs = style_layers.single_pairs(subject.signs("validation", "creative"), subject.words)
    settings = [NONE, *(Setting((path,)) for path in layers.every), Setting(tuple(layers.every))]
    names = ["none", *layers.every, "all"]
    return [_layered("single", pairs, settings, names, style_layers.SEEDS[:1])]


def _growing(subject: Subject, layers: Layers) -> list[Part]:
    single = load(subject, SINGLE, layers)
    parts = []
    pairs = style_layers.growing_pairs(subject.signs("test", "creative"), subject.words)
    for kind, of_kind in pairs.items():
        order = layers.by_word
        if kind != style_layers.WORD:
            order = style_layers.order_of(single, kind, layers.every)
        settings = [Setting(tuple(order[:count])) for count in range(len(order) + 1)]
        parts.append(_layered(kind, of_kind, settings, [str(n) for n in range(len(order) + 1)]))
    return parts


def _layered(name: str, pairs, settings, names: list[str], seeds=style_layers.SEEDS) -> Part:
    arguments = {
        "pairs": pairs, "settings": settings, "names": names,
        "seeds": list(seeds), **word_exchange.SAMPLING,
    }  # fmt: skip
    count = len(pairs) * len(settings) * len(seeds)
    return Part(name, style_layers.measure, ("judge", "pipe"), arguments, count)


def carry_out(
    store: Cache, subject: Subject, only: str | None = None, tell: Callable[[str], None] = print
) -> list[Path]:
    """Print a time estimate, make the tables and return their files.

    Args:
        store: Keeps each part as it is done, so an interrupted call can be resumed.
        only: Beginning of the names of the tables to make; all of them if None.
    """
    layers, each = layers_of(store, subject), _seconds(subject)
    files = []
    for file in (name for name in TABLES if name.startswith(only or "")):
        parts = parts_of(subject, file, layers)
        count, done, rows = sum(part.pictures for part in parts), 0.0, []
        tell(f"{file}: work of {count:.0f} pictures, about {count * each / 60:.0f} min")
        began = time.perf_counter()
        for part in parts:
            rows.append(_made(store, subject, file, part))
            done += part.pictures
            left = (time.perf_counter() - began) / done * (count - done) / 60
            tell(f"{file}: {part.name}, about {left:.0f} min left")
        table = pd.concat(rows, ignore_index=True)
        files.append(save_table(table, marks(subject, parts), folder_of(subject) / file))
    return files


def load(subject: Subject, file: str, layers: Layers) -> pd.DataFrame:
    """One of the tables.

    Args:
        file: One of `TABLES`.
        layers: From `layers_of`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    expected = marks(subject, parts_of(subject, file, layers))
    return load_table(folder_of(subject) / file, expected, REMEDY)


def marks(subject: Subject, parts: Sequence[Part]) -> dict[str, str]:
    """Hash of the weights and settings behind each part."""
    return {
        part.name: digest(
            json.dumps(
                canonical(
                    [[_subject(subject, name) for name in part.subjects], part.arguments]
                )
            ).encode()
        )
        for part in parts
    }  # fmt: skip


def folder_of(subject: Subject) -> Path:
    """Folder of the tables: shipped for the toybox, below the build folder for other models."""
    root = DATA / "results" if subject.folder.is_relative_to(DATA) else BUILD
    return root / "uses" / subject.model.name


def _subject(subject: Subject, name: str) -> Lazy:
    return {"pipe": subject.pipe, "judge": subject.judge}[name]


def _made(store: Cache, subject: Subject, file: str, part: Part) -> pd.DataFrame:
    subjects = {name: _subject(subject, name) for name in part.subjects}
    name = f"uses_{file.removesuffix('.parquet')}"
    rows = store.cached(name, part.measure, **subjects, **part.arguments)
    for column, value in part.constants.items():
        rows = rows.assign(**{column: value if isinstance(value, str) else rows[column] + value})
    return rows


def _seconds(subject: Subject) -> float:
    """Of drawing one picture in a batch."""
    began, few = time.perf_counter(), ["a sign"] * 8
    generate(subject.pipe.get(), few, [0], **word_exchange.SAMPLING)
    return (time.perf_counter() - began) / len(few)
