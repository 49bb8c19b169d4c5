"""What a user gives a notebook is checked before anything runs."""

import pytest

from t2i_lens.study.execute import NOTEBOOKS
from t2i_lens.study.parameters import ParameterError, check

HERO = NOTEBOOKS / "01_hero.ipynb"


def test_values_are_read_as_their_declared_types():
    given = ["seeds=3", "guidance_scale=2.5", "profile=toybox"]
    assert check(HERO, given) == {"seeds": 3, "guidance_scale": 2.5, "profile": "toybox"}


def test_nothing_given_is_nothing_changed():
    assert check(HERO, []) == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("sedes=3", "no parameter 'sedes'"),
        ("seeds=three", "'seeds' of 01_hero is int"),
        ("seeds=1.5", "'seeds' of 01_hero is int"),
        ("seeds", "write name=value"),
    ],
)
def test_a_wrong_parameter_is_named(given, told):
    with pytest.raises(ParameterError, match=told):
        check(HERO, [given])


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(ParameterError, match="twice"):
        check(HERO, ["seeds=1", "seeds=2"])
