"""The command `t2i-lens survey`."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from t2i_lens.base.files import write

SHOWN = 20  # rows of a table on the screen; the files hold all


def survey(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="files or folders")],
    lr: Annotated[
        float | None, typer.Option(min=1e-12, help="rate that reached the optimiser")
    ] = None,
    decay: Annotated[float, typer.Option(min=0, help="weight decay of AdamW")] = 0.01,
    output: Annotated[Path, typer.Option(help="folder for tables and figure")] = Path("survey"),
) -> None:
    """Measure the norms of all embedding files at some paths, beside those of public tokens.

    Writes tokens.csv, series.csv, refused.csv and norms.png. Copies of a tensor count once.
    """
    from t2i_lens.inversion import survey as surveys

    found = surveys.survey(paths, learning_rate=lr, weight_decay=decay)
    output.mkdir(parents=True, exist_ok=True)
    tables = {"tokens": found.tokens, "series": found.series, "refused": found.refused}
    for name, table in tables.items():
        write(output / f"{name}.csv", table.to_csv(index=False).encode())
    console = Console(markup=False)
    if len(found.tokens):
        buffer = io.BytesIO()
        norm_figure(found.tokens, found.series, lr, decay).savefig(buffer, dpi=150)
        write(output / "norms.png", buffer.getvalue())
        console.print(_tokens_table(found.tokens))
    if len(found.refused):
        console.print(_refused_table(found.refused))
    runs = found.series["run_id"].nunique()
    console.print(
        f"{found.files} files: {len(found.tokens)} tokens, {runs} series, "
        f"{len(found.refused)} refused; all in {output}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def norm_figure(tokens: pd.DataFrame, series: pd.DataFrame, lr: float | None, decay: float):
    """Norms by width among public tokens, and against the step where steps are known.

    Args:
        As `survey.Survey` and the command have them.
    """
    from t2i_lens.figures.curves import Curve, curves
    from t2i_lens.figures.style import log_axis
    from t2i_lens.inversion.public_norms import tokens as public_tokens
    from t2i_lens.inversion.public_norms import vocabulary_norm
    from t2i_lens.stats.metrics import predicted_norm

    public = public_tokens()
    shares, steps = {}, {}
    for label, table, role in (("public", public, "bos"), ("surveyed", tokens, "placeholder")):
        norms = np.sort(table["norm_mean"].to_numpy(float))
        norms = norms[norms > 0]
        shares[label] = Curve(norms, np.arange(1, len(norms) + 1) / len(norms), role, "-")
        known = table[(table["step"] > 0) & (table["norm_mean"] > 0)]
        points = (known["step"].to_numpy(float), known["norm_mean"].to_numpy(float))
        if len(known):
            steps[label] = Curve(*points, role, "o")
    for run, path in series.groupby("run_id", sort=False):
        path = path[path["step"] > 0]
        line = Curve(path["step"].to_numpy(), path["norm"].to_numpy(), "placeholder", "-")
        steps[f"_{run}"] = line
    if lr is not None:
        width = int(tokens["d"].mode()[0])
        grid = np.geomspace(10, 2e5, 60)
        law = predicted_norm(grid, vocabulary_norm(width), width, lr, decay)
        steps[f"law, width {width}"] = Curve(grid, law, "law", ":")
    panels = {"share of tokens below": shares, "norm against step": steps}
    panels = {title: some for title, some in panels.items() if some}
    figure = curves(panels, ["norm", "training step"][: len(panels)], log="x", own_legends=True)
    if steps:
        figure.axes[-1].set_yscale("log")
        log_axis(figure.axes[-1].yaxis)
    return figure


def _tokens_table(tokens: pd.DataFrame) -> Table:
    from t2i_lens.inversion.public_norms import FEWEST
    from t2i_lens.inversion.public_norms import tokens as public_tokens

    public = public_tokens()
    table = Table("run", "vectors", "width", "step", "norm", "law", "public below", "copies")
    for row in tokens.head(SHOWN).itertuples():
        alike = public.loc[public["d"] == row.d, "norm_mean"]
        below = f"{(alike < row.norm_mean).mean():.0%}" if len(alike) >= FEWEST else "–"
        table.add_row(
            row.run_id, str(row.n_vectors), str(row.d), _number(row.step, "g"),
            _number(row.norm_mean, ".3g"), _number(row.law, ".3g"), below, str(row.copies),
        )  # fmt: skip
    if len(tokens) > SHOWN:
        table.caption = f"{len(tokens) - SHOWN} more in tokens.csv"
    return table


def _refused_table(refused: pd.DataFrame) -> Table:
    from t2i_lens.inversion.survey import printable

    table = Table("refused file", "reason")
    for row in refused.head(SHOWN).itertuples():
        table.add_row(printable(row.file), row.reason)
    if len(refused) > SHOWN:
        table.caption = f"{len(refused) - SHOWN} more in refused.csv"
    return table


def _number(value: float | None, spec: str) -> str:
    return "–" if pd.isna(value) else f"{value:{spec}}"
