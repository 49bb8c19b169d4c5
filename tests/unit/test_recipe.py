"""The figure of recipes asks for nothing, is small, and has a picture for print."""

import json
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest

from t2i_lens.figures.recipe import SCRIPT, recipe_figure
from t2i_lens.inversion import public_norms
from t2i_lens.stats.metrics import predicted_norm

CAPTION = 'Norms "of" <tokens> & the law.'


@pytest.fixture(scope="module")
def figure():
    tokens = public_norms.tokens()
    still, axis = plt.subplots(figsize=(7, 3))
    axis.plot([0, 1])
    plt.close(still)
    known = tokens[tokens["step"] > 0]
    points = list(zip(known["step"], known["norm_mean"], known["d"].astype(int), strict=True))
    norms = {768: tokens.loc[tokens["d"] == 768, "norm_mean"].tolist()}
    recipe = {"width": 768, "rate": 2e-3, "decay": 0.01, "steps": 3000}
    return recipe_figure(points, norms, {768: 0.387}, recipe, still, CAPTION)


def test_it_is_small_and_makes_no_request(figure):
    assert len(figure.page) < 300_000
    page = re.sub(r'src="data:image/png;base64,[^"]*"', "", figure.page)
    page = page.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing fetches
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|XMLHttpRequest|import\(", page)


def test_paper_gets_the_picture_and_every_viewer_has_one(figure):
    assert "@media print" in figure.page and "<noscript>" in figure.page
    shown = figure._repr_mimebundle_()
    assert set(shown) == {"text/html", "image/png", "text/plain"}
    assert figure.still.startswith(b"\x89PNG")


def test_the_caption_is_text_and_no_markup(figure):
    assert "<tokens>" not in figure.page and "&lt;tokens&gt; &amp; the law" in figure.page


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
@pytest.mark.parametrize(
    ("steps", "rate", "decay"), [(3000, 2e-3, 0.01), (5e4, 5e-3, 0.0), (10, 1e-6, 0.01)]
)
def test_the_script_computes_the_law_of_the_library(steps, rate, decay):
    (law,) = re.findall(r"  function norm\(.*?\n  }\n", SCRIPT.read_text(), re.S)
    given = json.dumps([steps, 768, rate, decay])
    code = f"const data = {{start: {{768: 0.387}}}};{law};console.log(norm(...{given}))"
    told = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    expected = predicted_norm(np.array([steps]), 0.387, 768, rate, decay)[0]
    assert float(told.stdout) == pytest.approx(expected, rel=1e-9)
