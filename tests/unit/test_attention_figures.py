"""Figures of attention and of the first layer: drawn once, in the book's width, with their n."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from t2i_lens.experiments import first_layer
from t2i_lens.figures import attention_figures, first_layer_figures
from t2i_lens.figures.style import WIDTH
from t2i_lens.stats.bootstrap import Estimate

ESTIMATE = Estimate(0.5, 0.3, 0.8, 12)
TERMS = first_layer.TERMS


def rng():
    return np.random.default_rng(0)


def pattern_maps():
    pattern = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    maps = {"layer 1": (pattern, ["BOS", "a", "toy"]), "layer 2": (pattern, ["BOS", "a"])}
    return attention_figures.pattern_maps(maps, columns=2, marked=(1, 1))


def query_rows():
    rows = {"TI token": (rng().dirichlet([1, 1, 1], 4), "placeholder")}
    return attention_figures.query_rows(rows, ["BOS", "a", "itself"])


def layer_curves():
    curves = {"class word": (rng().random((5, 3)), "content")}
    return attention_figures.layer_curves({"to BOS": curves, "to itself": curves})


def head_dots():
    return attention_figures.head_dots({"TI": (rng().random((5, 3, 4)), "placeholder")}, "share")


def score_terms():
    arms = {"TI tokens": ([ESTIMATE] * 6, "placeholder")}
    return first_layer_figures.score_terms(arms, rng().normal(size=(4, 5)), TERMS)


def norm_sweep():
    panel = (rng().normal(size=(7, 3, 5)), rng().random((7, 3)), 1.5)
    return first_layer_figures.norm_sweep({"TI": panel}, np.array([0.5, 1.0, 2.0]), TERMS)


def norm_by_direction():
    cells = {"TI direction": ([ESTIMATE, ESTIMATE], "placeholder")}
    return first_layer_figures.norm_by_direction(cells, ["mean", "own"], "attention")


def predictions():
    groups = {"tokens": (rng().random(120), rng().random(120), "content")}
    return first_layer_figures.predictions({"all": groups, "norm": groups}, "attention")


def probe_curves():
    ratios, accuracy = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.5, 0.1])
    curves = {"trained once": (ratios, accuracy, "placeholder", "o-")}
    return first_layer_figures.probe_curves(curves, {"1": np.ones(5), "4": np.zeros(5)})


DRAWN = [
    pattern_maps,
    query_rows,
    layer_curves,
    head_dots,
    score_terms,
    norm_sweep,
    norm_by_direction,
    predictions,
    probe_curves,
]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_figure_leaves_no_setting_and_no_open_figure_behind(draw):
    before = dict(matplotlib.rcParams)
    figure = draw()
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()
    assert figure.get_figwidth() <= WIDTH


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_figure_drawn_twice_has_the_same_pixels(draw):
    pixels = []
    for _ in range(2):
        buffer = io.BytesIO()
        draw().savefig(buffer, format="rgba")
        pixels.append(buffer.getvalue())
    assert pixels[0] == pixels[1]


def labels_of(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize(
    ("draw", "label"),
    [
        (layer_curves, "class word (n=5)"),
        (head_dots, "TI (n=5)"),
        (score_terms, "TI tokens (n=12)"),
        (norm_sweep, "TI (n=7)"),
        (norm_by_direction, "TI direction (n=12)"),
        (predictions, "tokens (n=120)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_comparison_says_its_n(draw, label):
    assert label in labels_of(draw())


def test_maps_share_one_scale_hide_what_comes_later_and_write_the_marked_entry_out():
    figure = pattern_maps()
    first, second = (axis.images[0] for axis in figure.axes[:2])
    assert first.get_clim() == second.get_clim() == (0, 1)
    assert np.isnan(np.asarray(first.get_array().filled(np.nan))[0, 1])
    assert first.get_array().shape == (3, 3) and second.get_array().shape == (2, 2)
    assert "0.500" in labels_of(figure)


def test_the_excess_is_drawn_symmetrically_about_zero():
    image = score_terms().axes[1].images[0]
    low, high = image.get_clim()
    assert low == -high < 0
