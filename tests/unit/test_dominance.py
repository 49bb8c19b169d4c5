"""Tokens of pictures reduced to the numbers that claims speak of, on hand-made norms."""

import numpy as np
import pytest
import xarray as xr

from t2i_lens.experiments import dominance
from t2i_lens.models.tokens import TokenRow, Word

ROW = TokenRow(
    "a <t> and",
    ids=(0, 5, 9, 6, 1, 1),
    pieces=("bos", "a</w>", "<t>", "and</w>", "eos", "eos"),
    words=(Word("a", (1,)), Word("<t>", (2,)), Word("and", (3,))),
    eos=4,
)
ROLES = ["bos", "word", "slot", "word", "eos", "padding"]
NORMS = [100.0, 10.0, 60.0, 20.0, 40.0, 80.0]


def picture(norms=NORMS):
    columns = {
        "piece": ROW.pieces, "role": ROLES, "norm": norms,
        "share": [0.5, 0.05, 0.1, 0.05, 0.1, 0.2], "gini": [0.1, 0.2, 0.6, 0.4, 0.1, 0.1],
        "flatness": [0.9] * 6, "roughness": [1.0] * 6,
    }  # fmt: skip
    return xr.Dataset({name: ("position", list(values)) for name, values in columns.items()})


def test_every_token_has_one_role():
    assert [dominance.role_of(ROW, p, ROW.positions("<t>")) for p in range(6)] == ROLES


def test_ratios_and_gaps_are_taken_within_a_picture():
    row = {name: part.item() for name, part in dominance.per_picture(picture()).items()}
    assert row["slot_over_words"] == pytest.approx(60 / 15)
    assert row["bos_over_rest"] == pytest.approx(100 / 80)  # padding counts among the rest
    assert row["gini_gap"] == pytest.approx(0.6 - 0.3)
    assert row["flatness_gap"] == row["roughness_gap"] == pytest.approx(0)
    assert row["padding_share"] == pytest.approx(0.1 + 0.2)


def test_pictures_are_not_mixed():
    doubled = [n * (2 if role == "slot" else 1) for n, role in zip(NORMS, ROLES, strict=True)]
    tokens = xr.concat([picture(), picture(doubled)], "seed")
    table = dominance.per_picture(tokens)
    np.testing.assert_allclose(table["slot_over_words"], [4, 8])
    assert table["slot_over_words"].dims == ("seed",)
