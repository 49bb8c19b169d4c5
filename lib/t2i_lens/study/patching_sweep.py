"""The sweep of patching and injection: its tables, where they lie and how they are read.

One table per model: the U-Net of the profile, and the joint-attention model of the same world.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Cache, Lazy, canonical
from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.experiments import contents, patched_exchanges
from t2i_lens.experiments.contents import Exchange
from t2i_lens.experiments.kept_table import load_table, save_table
from t2i_lens.methods.patching import Arm
from t2i_lens.models.joint_toybox import JOINT_TOYBOX, joint_pipe
from t2i_lens.probes.patches import attention_sites
from t2i_lens.study.subject import Subject

UNET, JOINT = "unet.parquet", "joint.parquet"
# A picture drawn in another batch differs by rounding.
TOLERANCES = {"target": 0.02, "moved": 0.5}
REMEDY = "run `t2i-lens patching`"


class Table(NamedTuple):
    """What a table is measured with; `each_layer` asks for every layer alone too."""

    pipe: Lazy
    judge: Lazy
    exchanges: list[Exchange]
    validation: list[Exchange]
    guidance_scale: float
    each_layer: bool

    @property
    def sampling(self) -> dict:
        """How its pictures are drawn."""
        return {"guidance_scale": self.guidance_scale, **patched_exchanges.SAMPLING}


def table_of(subject: Subject, file: str) -> Table:
    """What is drawn for one of the tables: the same words on signs by each of the models.

    Args:
        file: `UNET` or `JOINT`.

    Raises:
        FileNotFoundError: the model is missing.
    """
    model = subject.model if file == UNET else JOINT_TOYBOX
    pipe = subject.pipe if file == UNET else joint_pipe()
    words = patched_exchanges.word_pairs(subject.signs("test", "creative"))
    validation = contents.word_exchanges(subject.signs("validation", "creative"))
    return Table(pipe, subject.judge, words, validation, model.guidance_scale,
                 each_layer=file == JOINT)  # fmt: skip


def localised(store: Cache, of: Table) -> list[str]:
    """Layers that show the target when they alone are patched, see `localised_layers`."""
    arguments = {"exchanges": of.validation, "seeds": list(patched_exchanges.SEEDS)}
    model = {"pipe": of.pipe, "judge": of.judge, **of.sampling}
    chosen = store.cached("patched_layers", patched_exchanges.localised_layers,
                          **model, **arguments)  # fmt: skip
    return chosen["localised"].tolist()


def arms_of(store: Cache, of: Table) -> list[Arm]:
    """All arms of a table."""
    sites = attention_sites(of.pipe.get())
    heads = next(iter(sites.values())).layer.heads
    few = patched_exchanges.arms(list(sites), localised(store, of), heads)
    return [*few, *(patched_exchanges.single_layers(list(sites)) if of.each_layer else [])]


def carry_out(
    store: Cache, subject: Subject, share: float = 1, tell: Callable[[str], None] = print
) -> list[Path]:
    """Print a time estimate, then make the tables; return their files.

    Args:
        store: Keeps each part as it is done, so an interrupted call can be resumed.
        share: Of the pairs, for a trial.
    """
    return [_make(store, subject, file, share, tell) for file in (UNET, JOINT)]


def _make(
    store: Cache, subject: Subject, file: str, share: float, tell: Callable[[str], None]
) -> Path:
    of = table_of(subject, file)
    arms = arms_of(store, of)
    pairs = of.exchanges[: max(1, round(share * len(of.exchanges)))]
    unrelated = patched_exchanges.unrelated_prompts(of.exchanges)
    starts = range(0, len(pairs), patched_exchanges.TOGETHER)
    batches = [slice(at, min(at + patched_exchanges.TOGETHER, len(pairs))) for at in starts]
    tell(f"{file}: {len(pairs) * len(arms) * len(patched_exchanges.SEEDS)} pictures")
    parts, began = [], time.perf_counter()
    for done, batch in enumerate(batches, start=1):
        arguments = {
            "exchanges": patched_exchanges.fields_of(pairs[batch]),
            "unrelated": unrelated[batch],
            "arms": patched_exchanges.fields_of(arms),
            "seeds": list(patched_exchanges.SEEDS),
        }
        model = {"pipe": of.pipe, "judge": of.judge, **of.sampling}
        parts.append(store.cached("patched", patched_exchanges.measure, **model, **arguments))
        left = (time.perf_counter() - began) / done * (len(batches) - done) / 60
        tell(f"{done} of {len(batches)} parts, about {left:.0f} min left")
    table = pd.concat(parts, ignore_index=True)
    return save_table(table, _marks(of, arms), _folder(subject) / file)


def load(subject: Subject, file: str, arms: list[Arm]) -> pd.DataFrame:
    """One of the tables.

    Args:
        file: `UNET` or `JOINT`.
        arms: All that it should hold, from `arms_of`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or was made from other weights or settings.
    """
    return load_table(_folder(subject) / file, _marks(table_of(subject, file), arms), REMEDY)


def _folder(subject: Subject) -> Path:
    root = DATA / "results" if subject.folder.is_relative_to(DATA) else BUILD
    return root / "patching" / subject.model.name


def _marks(of: Table, arms: list[Arm]) -> dict[str, str]:
    shared = {
        "weights": [of.pipe.fingerprint, of.judge.fingerprint],
        "sampling": of.sampling,
        "exchanges": patched_exchanges.fields_of(of.exchanges),
        "seeds": list(patched_exchanges.SEEDS),
    }
    return {
        arm.name: digest(json.dumps(canonical(shared | {"arm": repr(arm)})).encode())
        for arm in arms
    }
