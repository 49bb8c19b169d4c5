"""Generated pages: parts of the front, chapters and profiles, cost of recording, large sweeps."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from t2i_lens.base.paths import DATA
from t2i_lens.inversion.concept_library import public_tokens
from t2i_lens.models.profiles import PROFILES
from t2i_lens.study.answers import Answer
from t2i_lens.study.render import render
from t2i_lens.study.support import load_support, reason_against
from t2i_lens.study.verdicts import MARKS

CAPTURE = DATA / "results" / "capture.json"
TRIALS = DATA / "results" / "attention_trials.json"
SCALE = DATA / "results" / "scale.json"
CHAPTER = 60  # seconds that a chapter takes, about
# Requirements of the recorder, stated before it was measured.
MOST_TIME, MOST_OPERATIONS, MOST_XL_STATE = 1.02, 13, 35e6


def front_parts(
    answers: Mapping[str, Answer], parts: Mapping[str, str], picture: Sequence
) -> dict[str, str]:
    """What the front page includes: the answer, the contents, and the scoreboard in small.

    Args:
        answers: By chapter.
        parts: Part of the book of each chapter, in the order of the book.
        picture: From `board_page.picture`.

    Returns:
        File name -> Markdown.
    """
    listed: dict[str, list[Answer]] = {}
    for chapter, part in parts.items():
        if chapter in answers:
            listed.setdefault(part, []).append(answers[chapter])
    return {
        "answer.md": render("front_answer.md", parts=_first_of(listed), marks=MARKS),
        "contents.md": render("front_contents.md", parts=listed, marks=MARKS),
        "marks.md": render("front_marks.md", parts=picture, marks=MARKS),
    }


def _first_of(listed: Mapping[str, list[Answer]]) -> dict[str, Answer]:
    """The first chapter of each part that measured its claim; it stands for the part."""
    measured = {
        part: [a for a in answers if a.record.found is not None] for part, answers in listed.items()
    }
    return {part: answers[0] for part, answers in measured.items() if answers}


def profiles_page(linked: Collection[str] = (), chapters: dict[str, dict] | None = None) -> str:
    """Chapters × profiles with the reasons, and the profiles, as a MyST page.

    Args:
        linked: Chapters that the book has, as documents `chapters/<chapter>`.
        chapters: As `support.load_support` returns them, which is the default.
    """
    chapters = load_support() if chapters is None else chapters
    letters: dict[str, str] = {}
    rows = []
    for chapter in sorted(chapters):
        cells = []
        for profile in PROFILES:
            reason = reason_against(chapter, profile, chapters)
            if reason is None:
                cells.append("✓")
            else:
                cells.append(letters.setdefault(reason, chr(ord("a") + len(letters))))
        name = f"{{doc}}`{chapter} <chapters/{chapter}>`" if chapter in linked else chapter
        rows.append([name, *cells])
    models = [
        [
            p.name,
            p.repo if p.on_hub else "shipped",
            f"`{p.revision[:7]}`" if p.revision else ("not pinned" if p.on_hub else ""),
            f"{p.height}×{p.width}",
            p.num_inference_steps,
            p.guidance_scale,
            p.cross_attention_layers,
        ]
        for p in PROFILES.values()
    ]
    return render(
        "profiles.md",
        profiles=list(PROFILES),
        chapters=rows,
        reasons=letters,
        models=models,
        public=public_tokens(),
    )


def capture_page(file: Path = CAPTURE) -> str:
    """The figures of `make bench` on recording, as a MyST page."""
    if not file.exists():
        return render("capture.md", times=[])
    found = json.loads(file.read_text(encoding="utf-8"))
    layers, ratios, steps = (
        found[key] for key in ("layers, seconds", "layers, ratio", "step, ratio")
    )
    counts, states, memory = (found[key] for key in ("operations", "state", "memory"))
    few, many = next(iter(counts.values()))
    times = [
        [
            name,
            f"{layers[name]['median']:.3f} s",
            _range(ratios[name]),
            _range(steps[name]),
            f"{counts[name][few]}, {counts[name][many]}",
        ]
        for name in layers
    ]
    held = [
        [name, *(_megabytes(size) for size in some.values()),
         *(_megabytes(size) for size in found["state_sdxl"][name].values())]
        for name, some in states.items() if any(some.values())
    ]  # fmt: skip
    used = [
        [name, _megabytes(some["step_bytes"]), _megabytes(some["maps_bytes"]),
         f"{some['maps_seconds']:.2f} s"]
        for name, some in memory.items()
    ]  # fmt: skip
    number = next(iter(next(iter(states.values()))))
    titles = [f"{steps} step" + "s" * (steps != number) for steps in next(iter(states.values()))]
    return render(
        "capture.md",
        machine=found["machine"],
        versions=found["versions"],
        rounds=next(iter(layers.values()))["rounds"],
        few=few,
        many=many,
        times=times,
        steps=titles,
        states=held,
        memory=used,
        bars=_bars(found),
        trials=_trials(),
    )


def scale_page(file: Path = SCALE) -> str:
    """The figures of a simulated large sweep (`tests/slurm/scale.py`), as a MyST page."""
    if not file.exists():
        return render("scale.md", found=None)
    found = json.loads(file.read_text(encoding="utf-8"))
    phases = {
        "plan of all runs": ("plan", found["runs"]),
        "engine, all runs": ("engine", found["runs"]),
        "table of all runs": ("gather", found["runs"]),
        "plan after half was lost": ("replan", found["runs"]),
        "engine after half was lost": ("lost", found["lost_waiting"]),
    }
    times = [
        [name, f"{found[f'{key}_seconds']:.1f}", f"{1000 * found[f'{key}_seconds'] / runs:.1f}"]
        for name, (key, runs) in phases.items()
    ]
    each = found["engine_seconds"] / found["runs"]
    return render("scale.md", found=found, times=times, overhead=100 * each / CHAPTER)


def _trials(file: Path = TRIALS) -> dict | None:
    """Other ways to have the maps, as they were tried; None where they were not."""
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    far = found["largest error of a map over its mean"]
    rows = [
        [f"`{name}`", _range(figure), f"{far[name]:.1e}" if name in far else ""]
        for name, figure in found["ratio to the fused kernel"].items()
    ]
    return {"rows": rows, "second": found["every second step, error by layer"]}


def _bars(found: dict) -> list[str]:
    ours = [name for name in found["state"] if name.startswith("t2i_lens")]
    most = f"At most {100 * (MOST_TIME - 1):.0f} % more time in cross-attention layers"
    lines = []
    for name in (name for name in ours if name in found["layers, ratio"]):
        against = "layers, ratio to eager" if "eager" in name else "layers, ratio"
        ratio, kernel = found[against][name], "eager" if "eager" in name else "fused"
        verdict = "open: the rounds lie on both sides"
        if ratio["high"] <= MOST_TIME:
            verdict = "met"
        elif ratio["low"] > MOST_TIME:
            verdict = "missed"
        lines.append(f"{most} than the {kernel} kernel alone, `{name}`: **{verdict}**.")
    for name in ours:
        counts = list(found["operations"][name].values())
        met = max(counts) <= MOST_OPERATIONS and len(set(counts)) == 1
        lines.append(
            f"At most {MOST_OPERATIONS} operations per layer whatever the number of heads, "
            f"`{name}`: **{_verdict(met)}**."
        )
    sizes = [set(found["state"][name].values()) for name in ours]
    met = all(len(some) == 1 for some in sizes)
    lines.append(f"State independent of the number of steps: **{_verdict(met)}**.")
    (xl,) = found["state_sdxl"]["t2i_lens"].values()
    bar = _megabytes(MOST_XL_STATE)
    met = xl <= MOST_XL_STATE
    lines.append(f"State of all layers of SDXL within {bar} MB: **{_verdict(met)}**.")
    return lines


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _range(figure: dict) -> str:
    return f"{figure['median']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _megabytes(size: int | float | None) -> str:
    return "not known" if size is None else f"{size / 1e6:.1f}"
