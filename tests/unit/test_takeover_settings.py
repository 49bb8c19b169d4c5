"""Claim B01 at other doses and guidance scales: which rows are placed, and what is subtracted."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from t2i_lens.study import takeover_settings as settings


def table(steps=(60, 180, 360, 600)) -> pd.DataFrame:
    rows = [
        {"concept": concept, "variant": variant, "step": step, "arm": f"{variant} {step}",
         "word": word, "subject": concept, "vector": np.full(4, step, np.float32)}
        for concept, word in (("blue_cat", "cat"), ("tiger", "lion"))
        for variant in ("standard", "stretched")
        for step in steps
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_each_concept_has_its_class_word_and_its_own_token_at_three_doses():
    arms = settings.dose_arms(table())
    named = [arm.name for arm in arms if arm.concept == "tiger"]
    assert named == ["class word", "0.1", "0.3", "1"]
    placed = [float(arm.edits[0].by.tensor[0]) for arm in arms if arm.edits]
    assert placed == [60, 180, 600] * 2


def test_the_class_word_is_subtracted_picture_by_picture():
    lost = np.zeros((2, 2, 3, 2))
    lost[:, 0] = np.arange(6).reshape(3, 2)  # differs by prompt and seed, alike in both arms
    lost[:, 1] = lost[:, 0] + 0.5
    axes = ("concept", "arm", "prompt", "seed")
    labelled = xr.DataArray(lost, {"arm": ["class word", "1"]}, axes)
    found = settings.paired(labelled)
    assert list(found) == ["1"]
    assert found["1"].interval == pytest.approx((0.5, 0.5))
