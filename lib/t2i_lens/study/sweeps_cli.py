"""Commands that draw a sweep once and store its tables; chapters replay them.

Each prints a time estimate first, and resumes after an interruption.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i_lens.base.paths import BUILD, DATA

if TYPE_CHECKING:
    from t2i_lens.study.store import Store
    from t2i_lens.study.subject import Subject

Profile = Annotated[str, typer.Option(help="model to draw with")]


def _make(tables: "Callable[[Store, Subject], Sequence[Path]]", profile: str = "toybox") -> None:
    """Make the tables, print their files, and list them in the manifest where they ship."""
    from t2i_lens.study import manifest
    from t2i_lens.study.store import Store
    from t2i_lens.study.subject import Subject

    subject = Subject(profile)
    for file in tables(Store(BUILD / "results"), subject):
        print(file)
    if subject.folder.is_relative_to(DATA):
        manifest.update()


def alignment(
    share: Annotated[float, typer.Option(help="of the sentences", min=0.05, max=1)] = 1,
    profile: Profile = "toybox",
) -> None:
    """Draw prompts with test-time optimisation, its baselines and controls, and store the answers.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.study import alignment_sweep

    _make(lambda *of: alignment_sweep.carry_out(*of, share), profile)


def uses(
    table: Annotated[str | None, typer.Option(help="beginning of its name; all by default")] = None,
    profile: Profile = "toybox",
) -> None:
    """Draw and read what the localised layers are used for: edits, unwanted words, fine-tuning.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.study import uses_sweep

    _make(lambda *of: uses_sweep.carry_out(*of, table), profile)


def patching(
    share: Annotated[float, typer.Option(help="of the pairs of prompts", min=0.02, max=1)] = 1,
    profile: Profile = "toybox",
) -> None:
    """Draw pairs of prompts with patched and injected layers, and store what the pictures show.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.study import patching_sweep

    _make(lambda *of: patching_sweep.carry_out(*of, share), profile)


def mediation(profile: Profile = "toybox") -> None:
    """Exchange a learned token for its class word along one path at a time, and store what is lost.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.experiments.mediation import exchanges
    from t2i_lens.study import mediation_sweep

    _make(lambda *of: [mediation_sweep.carry_out(*of, exchanges())], profile)


def twins() -> None:
    """Train twins of the toybox, learn tokens in each, draw them, and store what is found.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.study import twins_sweep

    _make(lambda store, _: twins_sweep.carry_out(store))


COMMANDS = (alignment, uses, patching, mediation, twins)
