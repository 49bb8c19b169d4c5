"""Results are computed once, keyed by all they depend on, and never trusted when damaged."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.probes.edits import Scale
from t2i_lens.stats import metrics
from t2i_lens.stats.metrics import unit_rows
from t2i_lens.study.closure import closure, code_hash
from t2i_lens.study.store import Store

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def counted(calls: list, result):
    """A stand-in for a measurement: a library function by name, so that it can be keyed."""

    def function(**kwargs):
        calls.append(kwargs)
        return result

    function.__module__, function.__qualname__ = metrics.__name__, "counted"
    return function


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def test_a_result_is_computed_once(tmp_path):
    calls = []
    function = counted(calls, {"a": ROWS})
    first = Store(tmp_path).cached("x", function, k=1)
    again = Store(tmp_path).cached("x", function, k=1)
    assert len(calls) == 1
    assert (first["a"] == ROWS).all() and (again["a"] == ROWS).all()


def test_another_argument_is_another_result(tmp_path):
    calls = []
    function = counted(calls, {"a": ROWS})
    store = Store(tmp_path)
    for arguments in ({"k": 1}, {"k": 2}, {"k": 1.5}, {"k": ROWS}, {"k": ROWS + 1}, {"j": 1}):
        store.cached("x", function, **arguments)
    assert len(calls) == 6


def test_a_data_frame_comes_back_as_it_was(tmp_path):
    frame = pd.DataFrame({"word": ["cat", "dog"], "p": [0.25, 0.5]})
    back = Store(tmp_path).cached("frame", counted([], frame), k=1)
    pd.testing.assert_frame_equal(frame, back)


def test_labelled_arrays_come_back_with_their_axes_and_labels(tmp_path):
    axes = {"arm": ["TI token", "class word"], "seed": [0, 1, 2]}
    cells = xr.DataArray(ROWS, axes, ("arm", "seed"), name="lost")
    back = Store(tmp_path).cached("cells", counted([], cells), k=1)
    xr.testing.assert_identical(back, cells)
    readings = xr.Dataset(
        {"lost": cells, "asked": ("seed", [1, 2, 3]), "missed": cells.astype(str)}
    )
    readings = readings.assign_coords(concept="hero")
    back = Store(tmp_path).cached("readings", counted([], readings), k=2)
    xr.testing.assert_identical(back, readings)


def test_a_single_array_comes_back_as_one(tmp_path):
    back = Store(tmp_path).cached("rows", counted([], ROWS), k=1)
    assert isinstance(back, np.ndarray) and (back == ROWS).all()


def test_lazy_things_are_loaded_only_to_compute(tmp_path):
    loads = []
    for _ in range(2):
        lazy = Lazy(lambda: loads.append(1) or "model", "print-of-model")
        Store(tmp_path).cached("x", counted([], {"a": ROWS}), model=lazy)
    assert loads == [1]


def test_another_fingerprint_is_another_result(tmp_path):
    calls = []
    for fingerprint in ("weights-1", "weights-2"):
        lazy = Lazy(lambda: "model", fingerprint)
        Store(tmp_path).cached("x", counted(calls, {"a": ROWS}), model=lazy)
    assert len(calls) == 2


def test_a_damaged_payload_is_reported_and_computed_again(tmp_path, capsys):
    calls = []
    function = counted(calls, {"a": ROWS})
    Store(tmp_path).cached("x", function, k=1)
    (payload,) = files(tmp_path, ".npz")
    payload.write_bytes(payload.read_bytes()[:-7])
    back = Store(tmp_path).cached("x", function, k=1)
    assert "damaged" in capsys.readouterr().err
    assert len(calls) == 2 and (back["a"] == ROWS).all()


def test_a_result_without_provenance_is_not_trusted(tmp_path):
    calls = []
    function = counted(calls, {"a": ROWS})
    Store(tmp_path).cached("x", function, k=1)
    files(tmp_path, ".json")[0].unlink()
    Store(tmp_path).cached("x", function, k=1)
    assert len(calls) == 2


def test_a_provenance_of_something_else_is_not_trusted(tmp_path):
    calls = []
    function = counted(calls, {"a": ROWS})
    Store(tmp_path).cached("x", function, k=1)
    (note,) = files(tmp_path, ".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"key": "0" * 64}))
    Store(tmp_path).cached("x", function, k=1)
    assert len(calls) == 2


def test_an_interrupted_computation_leaves_nothing(tmp_path):
    def fails():
        raise KeyboardInterrupt

    fails.__module__ = metrics.__name__
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).cached("x", fails)
    assert not files(tmp_path, ".npz") and not files(tmp_path, ".json")


def test_objects_that_would_need_pickle_are_refused(tmp_path):
    with pytest.raises(TypeError, match="plain arrays"):
        Store(tmp_path).cached("x", counted([], {"a": np.array([object()])}), k=1)
    with pytest.raises(TypeError, match="cannot be part of a key"):
        canonical(object(), "thing")


def test_a_function_outside_the_library_is_refused(tmp_path):
    def local():
        return {"a": ROWS}

    local.__module__ = "__main__"
    with pytest.raises(ValueError, match="move it to the library"):
        Store(tmp_path).cached("x", local)


def test_the_code_hash_follows_imports(tmp_path):
    package = tmp_path / "t2i_lens"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "low.py").write_text("X = 1\n")
    (package / "mid.py").write_text("def f():\n    from t2i_lens import low\n    return low.X\n")
    (package / "other.py").write_text("Y = 1\n")
    found = closure([package / "mid.py"], package)
    assert {path.name for path in found} == {"__init__.py", "low.py", "mid.py"}


def test_functions_of_one_module_share_a_code_hash_and_others_do_not():
    assert code_hash(unit_rows) == code_hash(metrics.percentile)
    assert code_hash(unit_rows) != code_hash(canonical)


def test_an_edit_is_keyed_by_what_it_does():
    def key(factor):
        return canonical([{"word": "toy", "edits": (Scale(factor, positions=()),)}])

    assert key(2.0) == key(2.0) != key(3.0)
    json.dumps(key(2.0))  # a key is plain
