"""Figures are drawn, once, in one width, and leave matplotlib's settings alone."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from t2i_lens.figures import (
    curve_figures,
    embedding_figures,
    heat_map_figures,
    histograms,
    intervals,
    pictures,
    style,
)
from t2i_lens.figures.localisation_figures import layer_responses
from t2i_lens.stats.bootstrap import Estimate

RNG = np.random.default_rng(0)
ESTIMATE = Estimate(0.5, 0.3, 0.8, 12)


def picture_grid():
    drawn = RNG.integers(0, 255, (2, 3, 8, 8, 3), dtype=np.uint8)
    return pictures.picture_grid(drawn, ["a", "b"], [0, 1, 2], [["note"] * 3] * 2)


def compared_arms():
    arms = {"TI token": ESTIMATE, "class word": ESTIMATE}
    roles = {"TI token": "placeholder", "class word": "content"}
    return intervals.compared_arms({"hero": arms}, {"hero": ESTIMATE}, roles, "lost", "difference")


def marked_histogram():
    groups = {"tokens": (RNG.normal(size=100), "content")}
    marks = {"BOS": (0.5, "bos"), "TI": (np.ones(3), "placeholder"), "mean": (ESTIMATE, "law")}
    return histograms.marked_histogram(groups, np.linspace(-3, 3, 13), marks, "norm")


def density_panels():
    counts = {"tokens": (np.array([1, 2, 1]), "content")}
    return histograms.density_panels({"cosine": counts}, {"cosine": np.linspace(-1, 1, 4)})


def norm_ratios():
    rows = [("here", 3.0, "placeholder"), ("there", 1.7, "bos")]
    return embedding_figures.norm_ratios(pd.DataFrame(rows, columns=["source", "ratio", "role"]))


def norm_growth():
    curve = np.array([[1.0, 2.0]])
    panel = dict.fromkeys(("norms", "law", "no_decay", "straight"), curve)
    return embedding_figures.norm_growth({"here": panel | {"steps": np.array([10, 20])}})


def spectra():
    shares = {"centred": (np.array([0.7, 0.3]), "content")}
    law = (np.array([0.5, 1.0]), np.array([1.0, 0.5]))
    return embedding_figures.spectra(shares, {"all": (np.array([0.6, 1.4]), "content")}, law)


def plane():
    return embedding_figures.plane({"tokens": (RNG.normal(size=(5, 2)), "content")}, ("a", "b"))


def token_maps():
    pictures = RNG.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    pieces = [["a", "b", "c"]] * 2
    maps = RNG.random((2, 3, 4, 4))
    return heat_map_figures.token_maps(pictures, maps, pieces, ["x", "y"], "share", floor=1e-3)


def norms_by_role():
    values = {
        "BOS": {"TI token": Estimate(2000.0, 1900.0, 2100.0, 4)},
        "words": {"TI token": ESTIMATE},
    }
    roles = {"TI token": "placeholder"}
    return heat_map_figures.norms_by_role(values, roles, 3200.0, {"words": (10.0, 70.0)}, "norm")


def norms_where():
    curves = {"BOS": (np.array([60.0, 50.0]), "bos", "-")}
    markers = {"BOS": (np.array([60.0, 40.0, 50.0]), "bos", "o")}
    return heat_map_figures.norms_where(curves, markers, ["down.0.0", "mid.0", "up.1.0"], 64.0)


def dose_curves():
    curves = {"TI token": ([ESTIMATE] * 3, "placeholder", "-")}
    doses, marks = np.array([0.5, 1, 2]), {"own": (1.5, "law")}
    panels = {"lost": curves, "found": curves}
    return curve_figures.dose_curves(doses, panels, "norm", log=True, marks=marks)


def interval_panels():
    rows = {"norm": {"alone": ESTIMATE, "given": ESTIMATE}, "share": {"alone": ESTIMATE}}
    roles = {"alone": "placeholder", "given": "law"}
    return intervals.interval_panels({"correlation": rows, "lost": rows}, roles)


def norm_laws():
    steps = np.arange(0, 30, 10)
    curves = {label: (steps, np.sqrt(steps + 1.0), np.sqrt(steps + 1.1)) for label in "ab"}
    return curve_figures.norm_laws({"rate": curves, "decay": curves, "start": curves, "x": curves})


def against_causes():
    values, early = RNG.normal(size=20), np.arange(20) < 8
    groups = {"TI tokens": (early, "placeholder"), "class words": (~early, "content")}
    return curve_figures.against_causes(
        {"norm": values, "share": values**2}, values + 1, groups, "objects lost"
    )


def outcome_against():
    curves = {"hero": (np.array([0.9, 0.5]), np.array([1.0, 0.2]), "placeholder")}
    return curve_figures.outcome_against(curves, "attention", "presence", 0.5)


DRAWN = [
    picture_grid,
    compared_arms,
    marked_histogram,
    density_panels,
    norm_ratios,
    norm_growth,
    spectra,
    plane,
    token_maps,
    norms_by_role,
    norms_where,
    dose_curves,
    outcome_against,
    interval_panels,
    norm_laws,
    against_causes,
]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_figure_leaves_no_setting_and_no_open_figure_behind(draw):
    before = dict(matplotlib.rcParams)
    figure = draw()
    assert dict(matplotlib.rcParams) == before
    # an open figure would be shown a second time by a notebook
    assert not plt.get_fignums()
    assert figure.get_figwidth() <= style.WIDTH


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_figure_drawn_twice_has_the_same_pixels(draw):
    global RNG
    pixels = []
    for _ in range(2):
        RNG = np.random.default_rng(0)
        buffer = io.BytesIO()
        draw().savefig(buffer, format="rgba")
        pixels.append(buffer.getvalue())
    assert pixels[0] == pixels[1]


def labels_of(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_every_comparison_says_its_n():
    assert "hero (n=12)" in labels_of(compared_arms())
    assert "tokens (n=100)" in labels_of(marked_histogram())
    assert "here (n=1)" in labels_of(norm_growth())


def test_histograms_state_their_bins():
    assert "norm; bins of 0.5" in labels_of(marked_histogram())


def test_roles_have_different_colours():
    assert len(set(style.ROLES.values())) == len(style.ROLES)


def test_a_small_group_beside_a_tall_one_stays_visible():
    groups = {"many": (np.zeros(5000), "content"), "few": (np.ones(3), "eos")}
    figure = histograms.marked_histogram(groups, np.linspace(-1, 2, 4), {}, "norm")
    assert figure.axes[0].get_yscale() == "symlog"


def test_maps_of_one_figure_share_their_colours():
    figure = token_maps()
    limits = {
        image.get_clim() for a in figure.axes for image in a.images if image.get_array().ndim == 2
    }
    assert len(limits) == 1


def test_a_text_over_a_column_stands_as_it_is():
    drawn = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    titles = [
        a.get_title(loc="center") for a in pictures.picture_grid(drawn, ["a"], ["own", 3]).axes
    ]
    assert titles == ["own", "seed 3"]


def test_differences_below_zero_are_shown_whole():
    below = Estimate(-0.5, -0.7, -0.2, 4)
    roles = {"TI token": "placeholder"}
    figure = intervals.compared_arms(
        {"hero": {"TI token": below}}, {"hero": below}, roles, "a", "b"
    )
    assert figure.axes[0].get_xlim()[0] <= -0.7


def test_panels_of_intervals_share_their_subjects_and_name_each_series_once():
    figure = interval_panels()
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["norm (n=12)", "share (n=12)"]
    assert left.get_ylim() == right.get_ylim() and left.yaxis_inverted()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["alone", "given"]


def test_rounding_errors_about_zero_are_not_spread_over_a_panel_of_layers():
    zero = Estimate(0.0, 0.0, 0.0, 8)
    rounding = Estimate(1e-17, 0.0, 2e-17, 8)
    figure = layer_responses({"word": ([zero, rounding], zero, rounding)}, ["down", "up"], "lost")
    low, high = figure.axes[0].get_xlim()
    assert low < -0.04 and high > 0.04
