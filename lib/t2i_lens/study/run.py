"""One run of a notebook: its parameters, its model, its results, its numbers and its claims.

A notebook begins with `Run(...)` and ends with `run.finish()`. It works in the same way under the
driver (`t2i_lens.study.execute`), in Jupyter and on Colab.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import display
from pydantic import ValidationError

from t2i_lens.base.files import write
from t2i_lens.base.lazy import canonical
from t2i_lens.base.paths import BUILD
from t2i_lens.models import profiles
from t2i_lens.stats.bootstrap import Estimate, independent_difference
from t2i_lens.study import support
from t2i_lens.study.claims import first_message, load_claims, write_records
from t2i_lens.study.scoreboard import row_texts
from t2i_lens.study.store import Result, Store, versions
from t2i_lens.study.subject import Subject
from t2i_lens.study.verdicts import (
    Claim,
    ClaimError,
    Difference,
    Number,
    Pairing,
    Record,
    judge_claim,
)

FOLDER = "T2I_LENS_RUN"  # the driver's place for what a run leaves, until the run succeeded


class Run:
    """The run of one notebook: its model, its results, its numbers and its claims.

    Attributes:
        notebook: Its name without suffix, such as `01_hero`.
        profile: Name of the model profile.
        parameters: All others, by name.
        subject: The profile's model with its judge, tokens, words and bounds.
        pipe: The subject's pipeline, loaded when first needed.
        records: One per claim measured so far.
    """

    def __init__(self, notebook: str, *, profile: str, **parameters: Any):
        """Raises:
        ValueError: no such profile, the chapter does not run on it, or it has fewer TI
            embeddings than the chapter compares (`data/support.yaml`).
        TypeError: a parameter is no plain value.
        """
        self._began = time.perf_counter()
        pd.set_option("display.max_colwidth", None)  # no text in a table is cut
        self.notebook, self.profile = notebook, profile
        self.parameters = {key: canonical(value, key) for key, value in parameters.items()}
        self._claims = load_claims()
        self.subject = Subject(profile)
        support.require(notebook, profile)
        for kind, count in support.tokens_needed(notebook).items():
            self.subject.require_tokens(notebook, kind, count)
        self.pipe, self.device = self.subject.pipe, self.subject.device
        self.records: list[Record] = []
        self._store = Store(BUILD / "results")
        settings = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        need = profiles.describe_need(self.subject.model, self.device)
        print(f"{notebook} on {short(self.pipe.fingerprint)} ({need}): {settings}")

    def cached(self, name: str, function: Callable[..., Result], **kwargs: Any) -> Result:
        """`function(**kwargs)`, kept on disk; see `store.Store.cached`."""
        return self._store.cached(name, function, **kwargs)

    def claim(
        self,
        id: str,
        found: Estimate | None = None,
        *,
        control: Estimate | None = None,
        difference: Estimate | None = None,
        result: str | None = None,
        seeds: int | Sequence[int] | None = None,
        reason: str | None = None,
    ) -> None:
        """Record what was measured for a claim, and show it as a row of a table.

        Args:
            id: Of a claim in `data/claims.yaml`, which holds the bound that decides.
            found: The number that the claim's `measured` defines.
            control: What the claim names as its control, measured in the same way; left out
                where the claim stands alone.
            difference: Value minus control, both resampled together. Left out where they share
                no units: then it follows from the two intervals.
            result: Name given to `cached` for the result that the value came from.
            seeds: How many, or which.
            reason: In place of all others: why this profile cannot show it.

        Raises:
            ClaimError: no such claim, no bound on this profile, it was recorded before, its control
                is missing, no such result was used, or the numbers do not fit together.
        """
        if id not in self._claims:
            raise ClaimError(f"no claim {id} in data/claims.yaml")
        if id in {record.id for record in self.records}:
            raise ClaimError(f"claim {id} is recorded twice in {self.notebook}")
        stated = self._claims[id]
        if stated.chapter != self.notebook:
            raise ClaimError(f"claim {id} belongs to {stated.chapter}, see data/claims.yaml")
        fields: dict[str, Any] = {"id": id, "profile": self.profile, "notebook": self.notebook}
        if reason is not None:
            fields |= {"verdict": "not measurable", "reason": reason}
        elif found is None:
            raise ClaimError(f"claim {id} needs what was found, or a reason")
        else:
            fields |= {
                "n": found.n,
                "seeds": seeds if seeds is None or isinstance(seeds, int) else tuple(seeds),
                "result": result and self._stored(id, result),
            }
        try:
            if reason is None:
                fields |= self._judged(stated, found, control, difference)
            record = Record(**fields)
        except ValidationError as error:
            raise ClaimError(f"claim {id}: {first_message(error)}") from None
        self.records.append(record)
        row = {"claim": id} | row_texts(record) | {"compared with": stated.control.text}
        display(pd.DataFrame([row]).set_index("claim"))

    def _judged(
        self, stated: Claim, found: Estimate, control: Estimate | None, apart: Estimate | None
    ) -> dict[str, Any]:
        """Fields of a record: the verdict and the numbers that it follows from."""
        if control is None and apart is not None:
            raise ClaimError(f"claim {stated.id}: a difference needs its control")
        pairing: Pairing = "independent" if apart is None else "paired"
        if control is not None and apart is None:
            apart = independent_difference(found, control)
        value = Number(value=found.value, interval=found.interval)
        difference = apart and Difference(
            value=apart.value, interval=apart.interval, pairing=pairing
        )
        return {
            "verdict": judge_claim(stated, self.profile, value, difference),
            "value": value.value,
            "interval": value.interval,
            "control": control and Number(value=control.value, interval=control.interval),
            "difference": difference,
        }

    def _stored(self, id: str, name: str) -> str:
        """The stored result of a name, or a pattern where the name has several."""
        named = [file.stem for file in self._store.used if file.stem.rpartition("-")[0] == name]
        if not named:
            raise ClaimError(f"claim {id}: this run used no result {name}")
        return named[0] if len(named) == 1 else f"{name}-*"

    def glue(self, name: str, value: Any, text: str | None = None) -> None:
        """Make a number available to the prose as {glue:text}`name`.

        Args:
            text: How it is printed; `str(value)` by default.

        Raises:
            ValueError: neither a value nor a text.
        """
        if value is None and text is None:
            raise ValueError(f"{name} has neither a value nor a text to glue")
        prefix = "application/papermill.record/"
        data = {f"{prefix}text/plain": str(value) if text is None else text}
        keys = {"scrapbook": {"name": name, "mime_prefix": prefix}}
        display(data, metadata=keys, raw=True)

    def finish(self) -> None:
        """Write the claims and the provenance of the run; print versions, seeds and time."""
        default = BUILD / "runs" / self.profile / self.notebook
        folder = Path(os.environ.get(FOLDER, default))
        folder.mkdir(parents=True, exist_ok=True)
        seconds = time.perf_counter() - self._began
        used = {f"{file.name}": sha256 for file, sha256 in sorted(self._store.used.items())}
        provenance = {
            "notebook": self.notebook,
            "profile": self.profile,
            "model": self.pipe.fingerprint,
            "revision": self.subject.model.revision,
            "pinned": self.subject.model.pinned,
            "parameters": self.parameters,
            "device": self.device,
            "python": platform.python_version(),
            "versions": versions(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "results": used,
        }
        write(folder / "run.json", json.dumps(provenance, indent=1).encode())
        write_records(self.records, folder / "claims.json")
        libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
        print(f"python {platform.python_version()}, {libraries}")
        seeds = {k: v for k, v in self.parameters.items() if "seed" in k}
        print(
            f"model {short(self.pipe.fingerprint)} on {self.device}, "
            + "".join(f"{name} {value}, " for name, value in seeds.items())
            + f"{len(self.records)} claims, {seconds:.0f} s"
        )


def short(fingerprint: str) -> str:
    """A fingerprint with its hash shortened to twelve digits."""
    name, _, rest = fingerprint.partition("@")
    return f"{name}@{rest[:12]}" if rest else name[:12]
