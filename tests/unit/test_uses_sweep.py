"""Tables of the sweep over the uses of localised layers: their parts, and how they are kept."""

import numpy as np
import pandas as pd
import pytest

from t2i_lens.study import uses_sweep
from t2i_lens.study.subject import Subject
from t2i_lens.study.uses_sweep import Layers, Part

LAYERS = Layers(
    [f"layer{n}" for n in range(7)], [f"layer{n}" for n in (4, 0, 1, 2, 3, 5, 6)],
    ["layer4", "layer0"],
)  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    return Subject("toybox")


@pytest.mark.parametrize("file", [uses_sweep.EDITING, uses_sweep.UNWANTED])
def test_all_pairs_are_drawn_once_with_two_seeds_in_all_ways(subject, file):
    parts = uses_sweep.parts_of(subject, file, LAYERS)
    pairs = [pair["source"] + pair["target"] for p in parts for pair in p.arguments["pairs"]]
    assert len(pairs) == len(set(pairs)) == 48
    assert {len(part.arguments["seeds"]) for part in parts} == {2}
    (names,) = {tuple(way["name"] for way in part.arguments["ways"]) for part in parts}
    assert {"no edit", "localised layers", "all layers", *parts[0].arguments["read"]} <= set(names)


def test_parts_are_placed_one_after_the_other(subject):
    parts = uses_sweep.parts_of(subject, uses_sweep.EDITING, LAYERS)
    starts = [part.constants["pair"] for part in parts]
    lengths = [len(part.arguments["pairs"]) for part in parts]
    assert starts == [sum(lengths[:number]) for number in range(len(parts))]


@pytest.mark.parametrize("file", uses_sweep.TABLES[:-1])
def test_parts_have_names_of_their_own(subject, file):
    parts = uses_sweep.parts_of(subject, file, LAYERS)
    assert len({part.name for part in parts}) == len(parts)
    assert len(set(uses_sweep.marks(subject, parts).values())) == len(parts)


def test_other_sizes_draw_the_same_pairs_as_the_trained_one(subject):
    parts = uses_sweep.parts_of(subject, uses_sweep.READ, LAYERS)
    of_group = {part.constants["group"]: part.arguments for part in parts}
    trained = of_group.pop("as trained")
    for name, arguments in of_group.items():
        words = {len(pair["new"].split()) for pair in arguments["pairs"]}
        if "words" not in name:
            assert arguments["pairs"] == trained["pairs"] and words == {1}
        else:
            assert words == {int(name.split()[0])}
            assert (arguments["height"], arguments["width"]) == (64, 64)


def test_an_unknown_table_is_refused(subject):
    with pytest.raises(ValueError, match="no table 'x'; there are editing"):
        uses_sweep.parts_of(subject, "x", LAYERS)


class Kept:
    """A store that only calls."""

    def cached(self, name, function, **arguments):
        return function(**arguments)


def rows(pipe, number):
    return pd.DataFrame({"pair": [0, 1], "value": np.arange(2) + number})


def parts(first=1):
    return [
        Part("a", rows, ("pipe",), {"number": first}, 2, {"group": "x"}),
        Part("b", rows, ("pipe",), {"number": 5}, 2, {"pair": 10}),
    ]


def test_a_table_is_made_of_its_parts_kept_and_refused_if_a_setting_changes(
    monkeypatch, tmp_path, subject
):
    monkeypatch.setattr(uses_sweep, "folder_of", lambda subject: tmp_path)
    monkeypatch.setattr(uses_sweep, "layers_of", lambda store, subject: LAYERS)
    monkeypatch.setattr(uses_sweep, "_seconds", lambda subject: 30.0)
    monkeypatch.setattr(uses_sweep, "parts_of", lambda subject, file, layers: parts())
    told = []
    (file,) = uses_sweep.carry_out(Kept(), subject, "edit", told.append)
    assert file.name == uses_sweep.EDITING and told[0].endswith("work of 4 pictures, about 2 min")
    table = uses_sweep.load(subject, uses_sweep.EDITING, LAYERS)
    assert table["pair"].tolist() == [0, 1, 10, 11] and table["value"].tolist() == [1, 2, 5, 6]
    monkeypatch.setattr(uses_sweep, "parts_of", lambda subject, file, layers: parts(2))
    with pytest.raises(ValueError, match=r"other weights or settings \(a\): run `t2i-lens uses`"):
        uses_sweep.load(subject, uses_sweep.EDITING, LAYERS)
