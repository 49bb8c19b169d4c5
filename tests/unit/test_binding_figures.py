"""Figures of word pairs show every pair and every head they are given."""

import numpy as np

from t2i_lens.figures import binding_figures as figures

RNG = np.random.default_rng(0)


def test_every_pair_is_drawn_once_in_every_panel():
    x, y = RNG.uniform(size=(2, 9))
    kinds = np.array(["bound"] * 2 + ["crossed"] * 4 + ["nouns"] * 3)
    figure = figures.similarity_clouds(x, {"first": y, "last": 1 - y}, kinds, "text", "maps")
    for axis in figure.axes:
        assert sum(len(line.get_xdata()) for line in axis.lines) == 9
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 3 and "(n=4)" in labels[1]


def test_clouds_have_the_line_of_equality_only_where_it_means_something():
    x, y = RNG.uniform(0.1, 1, size=(2, 30))
    panel = {"all": (x, y, "content")}
    equal = figures.clouds(panel, "predicted", "measured", identity=True).axes[0]
    assert len(equal.lines) == 2
    ends = equal.lines[1].get_xydata()
    assert (ends[:, 0] == ends[:, 1]).all() and ends.min() <= min(x.min(), y.min())
    log = figures.clouds(panel, "eps", "unlike", identity=False, log=True).axes[0]
    assert len(log.lines) == 1 and (log.get_xscale(), log.get_yscale()) == ("log", "log")


def test_every_head_is_written_out_with_its_number():
    grids = {"a": RNG.uniform(-1, 1, (3, 2)), "b": RNG.uniform(-1, 1, (3, 2))}
    layers = {"a": ["1", "2", "3"], "b": ["x", "y", "z"]}
    figure = figures.head_grids(grids, layers, "correlation", (-1.0, 1.0))
    for axis, values in zip(figure.axes[:2], grids.values(), strict=True):
        assert [t.get_text() for t in axis.texts] == [f"{v:.2f}" for v in values.flat]
