"""A figure to point into: recipe of a training -> norm that the optimiser's law predicts.

On the screen a small script draws it, without a library and without a request; on paper, and where
scripts do not run, a picture takes its place.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

SCRIPT = Path(__file__).parent / "assets" / "recipe.js"
STYLE = """
.norm-recipe svg{width:100%;max-width:660px;touch-action:none;cursor:crosshair}
.norm-recipe label{margin-right:1em}.norm-recipe input{width:6em}
.norm-recipe output{display:block;min-height:1.5em;font-weight:600}
.norm-recipe img{display:none;max-width:100%}
@media print{.norm-recipe .live{display:none}.norm-recipe img{display:block}}
"""
FIELDS = (("rate", "learning rate"), ("decay", "weight decay"), ("steps", "steps"))


@dataclass(frozen=True, eq=False)
class RecipeFigure:
    """The figure as a notebook shows it: HTML for the screen, PNG for everything else.

    Attributes:
        page: HTML.
        still: PNG.
    """

    page: str
    still: bytes

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        png = base64.b64encode(self.still).decode()
        return {"text/html": self.page, "image/png": png, "text/plain": "recipe -> norm"}


def recipe_figure(
    points: Sequence[tuple[float, float, int]],
    norms: Mapping[int, Sequence[float]],
    starts: Mapping[int, float],
    recipe: Mapping[str, float | int],
    still: Figure,
    caption: str,
) -> RecipeFigure:
    """The figure, with public tokens behind the law.

    Args:
        points: Step, norm and width of public tokens with a known step.
        norms: Width -> norms of all public tokens of that width.
        starts: Width -> norm at which a training starts.
        recipe: At first: `width`, `rate`, `decay`, `steps`.
        still: Drawn for print.
        caption: Below the figure.

    Shown in: notebooks/21_real_token_norms.ipynb
    """
    buffer = io.BytesIO()
    still.savefig(buffer, dpi=110)
    data = {
        "points": [[round(step), round(norm, 3), width] for step, norm, width in points],
        "norms": {str(width): [round(n, 3) for n in some] for width, some in norms.items()},
        "start": {str(width): start for width, start in starts.items()},
    }
    widths = "".join(
        f"<option{' selected' if width == recipe['width'] else ''}>{width}</option>"
        for width in norms
    )
    inputs = "".join(
        f'<label>{label} <input name="{name}" value="{recipe[name]:g}" inputmode="decimal"></label>'
        for name, label in FIELDS
    )
    picture = base64.b64encode(buffer.getvalue()).decode()
    alt = html.escape(caption, quote=True)
    script = SCRIPT.read_text(encoding="utf-8").strip()
    # "</" would end the script element.
    packed = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    call = f"(document.currentScript.closest('.norm-recipe'),{packed});"
    page = (
        f'<div class="norm-recipe"><style>{STYLE}</style><div class="live">'
        f'<label>width <select name="width">{widths}</select></label>{inputs}<output></output>'
        f'<svg viewBox="0 0 660 340" role="img" aria-label="{alt}"></svg></div>'
        f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
        f"<noscript><style>.norm-recipe img{{display:block}}.norm-recipe .live{{display:none}}"
        f"</style></noscript><p>{html.escape(caption)}</p><script>{script}{call}</script></div>"
    )
    return RecipeFigure(page, buffer.getvalue())
