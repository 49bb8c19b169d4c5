"""Arrays in, Figure out: one look per role, on one page width.

Each function draws inside its own style context and leaves matplotlib's settings as it
found them. The colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from collections.abc import Callable
from functools import wraps

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

WIDTH = 7.0  # inches, the book's text column
ROLES = {
    "bos": "#7f7f7f",
    "content": "#0072B2",
    "placeholder": "#E69F00",
    "eos": "#D3A4C0",
    "control": "#56B4E9",
    "law": "#000000",
    "random": "#009E73",
}
STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function in the book's style; its figure is shown once, by its caller."""

    @wraps(draw)
    def inside(*args, **kwargs) -> Figure:
        with sns.axes_style("ticks"), plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)
        return figure

    return inside
