"""Paths of the project's files."""

import os
from pathlib import Path


def _root() -> Path:
    if "T2I_LENS_ROOT" in os.environ:
        return Path(os.environ["T2I_LENS_ROOT"]).resolve()
    for folder in [*Path(__file__).resolve().parents, Path.cwd(), *Path.cwd().parents]:
        if (folder / "data" / "claims.yaml").exists():
            return folder
    raise FileNotFoundError("no data/claims.yaml found; set T2I_LENS_ROOT to the repository's root")


ROOT = _root()
DATA = ROOT / "data"
# Everything generated is below BUILD; the tests point it elsewhere to measure from nothing.
BUILD = Path(os.environ.get("T2I_LENS_BUILD", ROOT / "build")).resolve()
