"""Figures are drawn, once, in one width, with their n, and leave matplotlib's settings alone."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from t2i_lens.figures import causal, groups, heat_maps, histograms, intervals, pictures, style
from t2i_lens.figures.curves import Curve, curves, equality, spread
from t2i_lens.figures.heat_maps import Grid
from t2i_lens.stats.bootstrap import Estimate

ESTIMATE = Estimate(0.5, 0.3, 0.8, 12)


def rng():
    return np.random.default_rng(0)


def causal_drawing():
    boxes = {"token": (0.1, 0.5), "state": (0.5, 0.5), "lost": (0.9, 0.5)}
    arrows = [causal.Arrow("token", "state", None), causal.Arrow("state", "lost", ESTIMATE, 0.2)]
    return causal.causal_drawing(boxes, arrows)


def picture_grid():
    drawn = rng().integers(0, 255, (2, 3, 8, 8, 3), dtype=np.uint8)
    return pictures.picture_grid(drawn, ["a", "b"], [0, 1, 2], [["note"] * 3] * 2)


def token_maps():
    shown = rng().integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    maps, pieces = rng().random((2, 3, 4, 4)), [["a", "b", "c"]] * 2
    return pictures.token_maps(shown, maps, pieces, ["x", "y"], "share", floor=1e-3)


def compared_arms():
    arms = {"TI token": ESTIMATE, "class word": Estimate(0.2, 0.1, 0.4, 12)}
    roles = {"TI token": "placeholder", "class word": "content"}
    values = {"hero": arms, "other": arms}
    return intervals.compared_arms(values, {"hero": ESTIMATE}, roles, "lost", "difference")


def forest():
    rows = {"norm": {"alone": ESTIMATE, "given": ESTIMATE}, "share": {"alone": ESTIMATE}}
    roles = {"alone": "placeholder", "given": "law"}
    return intervals.forest({"correlation": rows, "lost": rows}, roles)


def forest_of_norms():
    rows = {
        "BOS": {"TI token": Estimate(2000.0, 1900.0, 2100.0, 4), "printed": (2000.0, 3000.0)},
        "published": {"TI token": np.array([3.0, 40.0])},
    }
    roles = {"TI token": "placeholder", "printed": "law", "cap": "bos"}
    marks = {"norm (log scale)": {"cap": 3200.0}}
    return intervals.forest({"norm (log scale)": rows}, roles, log=True, marks=marks)


def forest_of_layers():
    zero, rounding = Estimate(0.0, 0.0, 0.0, 8), Estimate(1e-17, 0.0, 2e-17, 8)
    panels = {"word": ([zero, rounding], zero, rounding)}
    return intervals.layer_responses(panels, ["down.0.0", "up.1.0"], "lost")


def dose_curves():
    doses = np.array([0.5, 1, 2])
    some = {"TI token": Curve(doses, [ESTIMATE] * 3, "placeholder")}
    panels, marks = {"lost": some, "found": some}, {"own": (1.5, "law")}
    return curves(panels, "norm (log scale)", log="x", marks=marks, ticks=doses)


def rows_of_curves():
    steps, norms = np.array([10, 20]), np.array([[1.0, 2.0], [1.5, 2.2]])
    top = {
        "measured": Curve(steps, norms, "placeholder", "-"),
        "law": Curve(steps, norms[0], "law"),
    }
    below = {"measured": Curve(steps, norms / norms[0], "placeholder", "-")}
    panels = {"here": top, "there": top, "": below, " ": below}
    return curves(panels, "training step", ["norm", "measured / law"], columns=2)


def curves_of_samples():
    some = {"class word": spread([1, 2, 3], rng().random((5, 3)), "content")}
    return curves({"to BOS": some, "to itself": some}, "layer", "attention", limits=(0.0, 1.0))


def curves_of_shades():
    steps = np.arange(0, 30, 10)
    some = {f"{n}": Curve(steps, np.sqrt(steps + n), n / 3, "-") for n in range(4)}
    return curves(dict.fromkeys("abcd", some), "step", "norm", columns=3, own_legends=True)


def curves_of_names():
    cells = {"TI direction": Curve(["mean", "own"], [ESTIMATE, ESTIMATE], "placeholder")}
    return curves({"": cells}, "norm forced to", "attention", limits=(0.0, 1.0))


def clouds():
    x, y = rng().uniform(0.1, 1, (2, 120))
    many, few = Curve(x, y, "content", "o"), Curve(x[:9], y[:9], "placeholder", "x")
    panel = {"tokens": many, "TI tokens": few, "equal": equality(many)}
    return curves({"all": panel, "norm": panel}, "predicted", "measured")


def heat_maps_of_heads():
    panels = {t: Grid(rng().uniform(-1, 1, (3, 2)), ["1", "2", "3"], [1, 2]) for t in "ab"}
    return heat_maps.heat_maps(panels, "correlation", (-1.0, 1.0), centre=0.0, form=".2f")


def heat_maps_of_words():
    pattern = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    said = {"layer 1": ["BOS", "a", "toy"], "layer 2": ["BOS", "a"]}
    panels = {title: heat_maps.looked_back(pattern, words) for title, words in said.items()}
    labels = ("key (looked at)", "query (looks)")
    return heat_maps.heat_maps(panels, "attention", (0.0, 1.0), axes_labels=labels, marked=(1, 1))


def marked_histogram():
    some = {"tokens": (rng().normal(size=100), "content")}
    marks = {"BOS": (0.5, "bos"), "TI": (np.ones(3), "placeholder"), "mean": (ESTIMATE, "law")}
    return histograms.marked_histogram(some, np.linspace(-3, 3, 13), marks, "norm")


def density_panels():
    counts = {"tokens": (np.array([1, 2, 1]), "content"), "rows": (np.array([2, 1, 2]), "random")}
    edges = {"cosine": np.linspace(-1, 1, 4), "eigenvalue": np.geomspace(0.1, 10, 4)}
    laws = {"Marchenko–Pastur": (np.array([0.5, 1.0]), np.array([1.0, 0.5]))}
    return histograms.density_panels(dict.fromkeys(edges, counts), edges, laws)


def grouped_dots():
    rows = {"TI token": (rng().dirichlet([1, 1, 1], 4), "placeholder")}
    return groups.grouped_dots(rows, ["BOS", "a", "itself"], "key", "attention")


def slopes():
    scores = np.array([1.0, 2.0, 3.0]), np.array([2000.0, 1000.0, 3000.0])
    return groups.slopes({"error": scores}, ["none", "first", "second"], ["low"])


def stacked_shares():
    shares = [
        Estimate(0.5, 0.4, 0.6, 12),
        Estimate(0.48, 0.4, 0.6, 12),
        Estimate(0.02, 0.0, 0.1, 12),
    ]
    return groups.stacked_shares({"plain": shares}, ["both", "one", "none"], "share of pictures")


DRAWN = [
    causal_drawing,
    picture_grid,
    token_maps,
    compared_arms,
    forest,
    forest_of_norms,
    forest_of_layers,
    dose_curves,
    rows_of_curves,
    curves_of_samples,
    curves_of_shades,
    curves_of_names,
    clouds,
    heat_maps_of_heads,
    heat_maps_of_words,
    marked_histogram,
    density_panels,
    grouped_dots,
    slopes,
    stacked_shares,
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
def test_latex_and_colours_of_the_reader_reach_no_figure(draw):
    def pixels():
        figure, stream = draw(), io.BytesIO()
        figure.savefig(stream, format="raw", dpi=60)
        return stream.getvalue(), any(text.get_usetex() for text in figure.findobj(Text))

    plain = pixels()
    theirs = {"text.usetex": True, "axes.facecolor": "red", "image.cmap": "hot"}
    with plt.rc_context(theirs):
        assert pixels() == plain
    assert not plain[1]


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


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_no_label_is_too_small_to_read_at_the_books_width(draw):
    figure = draw()
    assert min(t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text()) >= 7


@pytest.mark.parametrize(
    ("draw", "label"),
    [
        (compared_arms, "hero (n=12)"),
        (forest_of_norms, "published (n=2)"),
        (marked_histogram, "tokens (n=100)"),
        (density_panels, "rows (n=5)"),
        (rows_of_curves, "measured (n=2)"),
        (clouds, "tokens (n=120)"),
        (stacked_shares, "plain (n=12)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_comparison_says_its_n(draw, label):
    assert label in labels_of(draw())


def test_histograms_state_their_bins():
    assert "norm; bins of 0.5" in labels_of(marked_histogram())
    assert "eigenvalue; 3 logarithmic bins" in labels_of(density_panels())


def test_roles_have_different_colours_and_other_colours_stand_as_they_are():
    assert len({style.colour(role) for role in style.ROLES}) == len(style.ROLES)
    assert style.colour("#D55E00") == "#D55E00"
    assert style.colour(0.0) != style.colour(1.0)


def test_a_small_group_beside_a_tall_one_stays_visible():
    some = {"many": (np.zeros(5000), "content"), "few": (np.ones(3), "eos")}
    figure = histograms.marked_histogram(some, np.linspace(-1, 2, 4), {}, "norm")
    assert figure.axes[0].get_yscale() == "symlog"


def test_maps_of_one_figure_share_their_colours():
    for figure in (token_maps(), heat_maps_of_heads(), heat_maps_of_words()):
        images = [image for axis in figure.axes for image in axis.images]
        assert len({image.get_clim() for image in images if image.get_array().ndim == 2}) == 1


def test_a_text_over_a_column_stands_as_it_is():
    drawn = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    figure = pictures.picture_grid(drawn, ["a"], ["own", 3])
    assert [axis.get_title(loc="center") for axis in figure.axes] == ["own", "seed 3"]


def test_differences_below_zero_are_shown_whole():
    below = Estimate(-0.5, -0.7, -0.2, 4)
    values = {"hero": {"TI token": below}}
    roles = {"TI token": "placeholder"}
    figure = intervals.compared_arms(values, {"hero": below}, roles, "a", "b")
    assert figure.axes[0].get_xlim()[0] <= -0.7


def test_panels_of_intervals_share_their_subjects_and_name_each_series_once():
    figure = forest()
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["norm (n=12)", "share (n=12)"]
    assert left.get_ylim() == right.get_ylim() and left.yaxis_inverted()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["alone", "given"]


def test_rounding_errors_about_zero_are_not_spread_over_a_panel_of_layers():
    low, high = forest_of_layers().axes[0].get_xlim()
    assert low < -0.04 and high > 0.04


def test_a_causal_map_hides_what_comes_later_and_writes_the_marked_entry_out():
    figure = heat_maps_of_words()
    first, second = (axis.images[0] for axis in figure.axes[:2])
    assert np.isnan(np.asarray(first.get_array().filled(np.nan))[0, 1])
    assert first.get_array().shape == (3, 3) and second.get_array().shape == (2, 2)
    assert "0.500" in labels_of(figure)


def test_every_cell_is_written_out_with_its_number_and_rows_are_named_once():
    figure = heat_maps_of_heads()
    values = rng().uniform(-1, 1, (3, 2))
    for axis in figure.axes[:2]:
        assert [text.get_text() for text in axis.texts] == [f"{value:.2f}" for value in values.flat]
    names = [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes[:2]]
    assert names == [["1", "2", "3"], ["", "", ""]]


def test_every_point_of_a_cloud_is_drawn_and_equality_reaches_from_end_to_end():
    x, y = rng().uniform(0.1, 1, (2, 120))
    axis = clouds().axes[0]
    assert [len(line.get_xdata()) for line in axis.lines] == [120, 9, 2]
    ends = axis.lines[2].get_xydata()
    assert (ends[:, 0] == ends[:, 1]).all() and ends.min() == x.min() and y.min() > 0


def test_a_band_is_the_interval_of_estimates_or_the_central_share_of_samples():
    samples = np.arange(101.0)[:, None] * [1, 2]
    curve = spread([0, 1], samples, "content", share=0.9)
    np.testing.assert_allclose(curve.band, [[5, 10], [95, 190]])
    band = dose_curves().axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == ESTIMATE.interval


def test_methods_that_change_places_are_told_by_their_colour():
    colours = [line.get_color() for line in slopes().axes[0].lines]
    moved, stays = style.ROLES["placeholder"], style.ROLES["content"]
    assert colours == [moved, moved, stays]


@pytest.mark.parametrize("word", ["<$a$>", "$x^$", "a\\b", r"$\foo$", "100 % $"])
def test_a_word_with_signs_of_formulas_is_drawn_as_it_is(word):
    black = np.zeros((1, 2, 4, 4, 3), np.uint8)
    figure = pictures.picture_grid(black, [word], [word, 1], [[word, word]])
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() == word]
    assert len(texts) == 4
    assert not any(text.get_parse_math() for text in texts if "$" in word)


def test_powers_of_ten_are_still_formulas():
    maps = np.full((1, 1, 4, 4), 0.1)
    figure = pictures.token_maps(
        np.zeros((1, 4, 4, 3), np.uint8), maps, [["a"]], ["arm"], "share", floor=1e-3
    )
    figure.canvas.draw()
    labels = figure.axes[-1].get_xticklabels()
    powers = [text for text in labels if "mathdefault" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)
