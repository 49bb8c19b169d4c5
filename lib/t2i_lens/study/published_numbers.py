"""The page on published numbers that follow from how they were computed, with derivations."""

from collections.abc import Iterable, Mapping

import numpy as np
import yaml

from t2i_lens.base.paths import DATA
from t2i_lens.inversion.embedding_table import published_trajectory
from t2i_lens.stats import sign_metrics
from t2i_lens.stats.metrics import predicted_norm
from t2i_lens.study.render import render
from t2i_lens.study.scoreboard import number_text
from t2i_lens.study.verdicts import DEFAULT, MARKS, Claim, Record

SDS = (2, 8, 16, 32, 64, 128)  # of the noise, in grey levels
READINGS = (("tsop", "stop"), ("open", "pope"), ("no dogs", "goods on"), ("closed", "stop"))


def published_page(claims: Mapping[str, Claim], records: Iterable[Record]) -> str:
    """Where published numbers do not hold, as a MyST page."""
    numbers = {
        record.id: {
            "value": number_text(record.value, record.interval),
            "verdict": f"{MARKS[record.verdict]} {record.verdict}",
        }
        for record in records
        if record.profile == DEFAULT and record.found is not None
    }
    return render(
        "published_numbers.md", numbers=numbers, law=_law(), wrapped=_wrapped(), letters=_letters()
    )


def _law() -> dict:
    """A public token's norm over its training beside the law with and without decay."""
    run = published_trajectory()
    about = {"width": run["width"], "learning_rate": run["learning_rate"]}
    start = run["initial"].item()
    plain = predicted_norm(run["steps"], start, **about)
    decayed = predicted_norm(run["steps"], start, **about, weight_decay=run["weight_decay"])
    columns = zip(run["steps"], run["norms"][0], plain, decayed, strict=True)
    rows = [[int(step), *(f"{norm:.2f}" for norm in norms)] for step, *norms in columns]
    return about | {"weight_decay": run["weight_decay"], "rows": rows}


def _wrapped() -> dict:
    """The ceiling of wrapped errors, the printed ones, and both errors of Gaussian noise."""
    printed = yaml.safe_load((DATA / "published_text_editing.yaml").read_text(encoding="utf-8"))
    rows = printed["editing"]
    largest, ceiling = max(rows, key=lambda row: row["mse"]), sign_metrics.wrapped_ceiling()
    errors = np.transpose(sign_metrics.wrapped_noise(np.array(SDS, dtype=float)))
    return {
        "printed": f"{rows[0]['mse']:g}",
        "largest": f"{largest['mse']:g}",
        "largest_psnr": f"{largest['psnr']:g}",
        "ceiling": f"{ceiling:.1f}",
        "psnr": f"{sign_metrics.psnr(ceiling):.2f}",
        "rows": [[f"{number:.1f}" for number in pair] for pair in errors],
    }


def _letters() -> list[list[str]]:
    """F1 of letters and of words for words with the same letters, and for one without."""
    return [
        [read, wanted, f"{sign_metrics.published_f1([read], [wanted]):.2f}",
         f"{sign_metrics.word_f1(read, wanted):.2f}"]
        for read, wanted in READINGS
    ]  # fmt: skip
