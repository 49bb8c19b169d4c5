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
        ("seeds=-1", "'seeds' of 01_hero is from 2 to 1000, not '-1'"),
        ("guidance_scale=nan", "'guidance_scale' of 01_hero is from 0 to 100"),
        ("guidance_scale=inf", "'guidance_scale' of 01_hero is from 0 to 100"),
        ("guidance_scale=-1", "'guidance_scale' of 01_hero is from 0 to 100"),
        ("num_inference_steps=0", "'num_inference_steps' of 01_hero is from 1 to 1000"),
        ("concept_prompts=-1", "'concept_prompts' of 01_hero"),
    ],
)
def test_a_wrong_parameter_is_named(given, told):
    with pytest.raises(ParameterError, match=told):
        check(HERO, [given])


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(ParameterError, match="twice"):
        check(HERO, ["seeds=3", "seeds=2"])


@pytest.mark.parametrize(
    ("notebook", "given", "told"),
    [
        ("02_norms", "bins=-5", "'bins' of 02_norms is from 1 to 1000, not '-5'"),
        ("02_norms", "seed=-1", "'seed' of 02_norms is from 0 to 4294967295, not '-1'"),
        ("02_norms", "seed=4294967296", "'seed' of 02_norms"),
        ("03_cosine_pca", "subset_share=1.5", "'subset_share' of 03_cosine_pca is from 0.01 to 1"),
        ("14_text_metrics", "kind=other", "is simple or creative, not 'other'"),
        ("14_text_metrics", "bucket=", "is test or validation, not ''"),
        ("14_text_metrics", "starts=0,2", "'starts' of 14_text_metrics is of the form"),
        ("14_text_metrics", "starts=-1 2", "'starts' of 14_text_metrics is of the form"),
        ("04_attention_dominance", "neutral_word=", "'neutral_word' of 04_attention_dominance"),
        ("01_hero", "neutral_words=owl, fox", "'neutral_words' of 01_hero is of the form"),
        ("12_text_self_attention", "example=a cat", "'example' of 12_text_self_attention"),
        ("24_clinic", "folder=../../home", "'folder' of 24_clinic is of the form"),
    ],
)
def test_a_value_out_of_its_range_is_named_before_a_kernel_starts(notebook, given, told):
    with pytest.raises(ParameterError, match=told):
        check(NOTEBOOKS / f"{notebook}.ipynb", [given])


def test_a_profile_that_a_notebook_does_not_run_on_is_named_before_a_kernel_starts():
    with pytest.raises(ValueError, match="unknown profile 'sd16'"):
        check(HERO, ["profile=sd16"])
    with pytest.raises(ValueError, match="14_text_metrics does not run on 'sd15'"):
        check(NOTEBOOKS / "14_text_metrics.ipynb", ["profile=sd15"])
