"""Generated pages of the book: which chapter runs on which profile, and the cost of recording."""

import json
from collections.abc import Collection
from pathlib import Path

from t2i_lens.base.paths import DATA
from t2i_lens.models.profiles import PROFILES
from t2i_lens.study.scoreboard import markdown_row
from t2i_lens.study.support import load_support, reason_against

CAPTURE = DATA / "results" / "capture.json"
# Requirements of the recorder, stated before it was measured.
MOST_TIME, MOST_OPERATIONS, MOST_XL_STATE = 1.02, 13, 35e6

PROFILES_PAGE = """\
(profiles)=
# Models and chapters

A chapter runs on every profile with a ✓ below; a letter stands for the reason why it does not run on the profile.
On such a profile the chapter stops at its first cell with that reason.
The numbers of this book were measured on the toybox.
Tests run the chapters on other profiles with small random models of the real classes, stored in a cache of the Hub under the names, commits and layers of SD 1.5 and SDXL; the library calls of the chapters are also tested on Stable Diffusion 2 and 3.

{chapters}

{reasons}

## Another model than the toybox

On another profile a chapter needs access to the Hub, or a cache with the model, and TI embeddings of that model.

```
t2i-lens invert --profile sd15 --variant standard --concept cat_toy
t2i-lens embeddings add FILE --class-word toy --profile sd15
t2i-lens run 04_attention_dominance -p profile=sd15 -p num_inference_steps=50
```

The first command prints a time estimate and trains the concepts of this study; `09_norm_growth` and `10_destruction` need all variants, and `10_destruction` also needs the results of `t2i-lens doses --profile sd15`.
The second command adds an existing token, from a file or, by an id such as `sd-concepts-library/cat-toy`, from the Hub.

Other profiles differ from the toybox in judge, sentences and bounds.
The judge is a detector, OWLv2 {{cite:p}}`minderer2023owlv2`, which looks for the nouns of the prompts, and for the class word of a learned concept; likeness is that of DINOv2 {{cite:p}}`oquab2024dinov2`.
Their error rates on drawn pictures are not measured here, and they do not read colours.
Sentences of two objects use other words.
A verdict uses the bound of the claim for the toybox, unless `data/claims.yaml` gives the profile its own.
Chapters on text attention read the first of SDXL's two text encoders.

## The profiles

The toybox runs on a processor; the other models need a GPU.
A profile names the commit of its repository, so that a result names its model; a profile without a commit is looked up when it is used, with a warning, and the commit is written to the provenance.
The number of layers counts the layers that read the text.

{models}
"""  # noqa: E501

CAPTURE_PAGE = """\
(capture)=
# The cost of recording cross-attention

Each tool below recorded the cross-attention of Stable Diffusion 1.5's U-Net: the real configuration with random weights in float32, latents of 64×64, one prompt with guidance, one thread on a processor ({processor}, torch {torch}).
All tools took turns in one run.
Times are processor times; the lowest and the highest of {rounds} rounds are in brackets.

- **fused** is PyTorch's attention kernel, the default of diffusers, and **eager** is diffusers' plain one, in cross-attention only.
- `t2i_lens` computes probabilities in addition to a fused kernel and changes no bit of the picture; with an eager kernel it takes the kernel's own probabilities.
- `t2i_lens, shared` draws the recorded half with the probabilities that it records. Pictures change by rounding.
- `daam` ({daam}) uses an eager kernel of its own and keeps heads apart.
- `attention-map-diffusers` ({other}) keeps queries and keys of every step and computes probabilities afterwards; its times do not include this.

## Time

{times}

The middle columns are ratios to the first line: all cross-attention layers, and the whole step.
Operations are those of one cross-attention layer that compute or copy, recording included, with {few} and with {many} heads.

## State

Size of the recorded state after the given number of steps, in MB, and after one step of SDXL at 1024 pixels.
The sizes are those of the real tensors, on a device without memory.

{states}

## Memory

Growth of the process in one step and during the computation of all tokens' heat maps, in MB, and the time of that computation.
A process reuses memory that it has freed, so only large differences are meaningful.

{memory}

## Requirements

The recorder's requirements, stated before it was measured:

{bars}
"""  # noqa: E501

NOT_YET = """\
(capture)=
# The cost of recording cross-attention

`make bench` measures it; it has not been run for this book.
"""


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
    titles = ["profile", "repository", "commit", "pixels", "steps", "guidance", "layers"]
    return PROFILES_PAGE.format(
        chapters=_table(["chapter", *PROFILES], rows),
        reasons="\n".join(f"- **{letter}**: {reason}" for reason, letter in letters.items()),
        models=_table(titles, models),
    )


def capture_page(file: Path = CAPTURE) -> str:
    """The figures of `make bench` on recording, as a MyST page."""
    if not file.exists():
        return NOT_YET
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
    return CAPTURE_PAGE.format(
        processor=found["machine"]["processor"],
        torch=found["machine"]["torch"],
        rounds=next(iter(layers.values()))["rounds"],
        daam=found["versions"]["daam"],
        other=found["versions"]["attention-map-diffusers"],
        few=few,
        many=many,
        times=_table(["", "layers", "layers, ratio", "step, ratio", "operations"], times),
        states=_table(["", *titles, "SDXL"], held),
        memory=_table(["", "step", "heat maps", "time of maps"], used),
        bars="\n".join(f"- {line}" for line in _bars(found)),
    )


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


def _table(head: list, rows: list[list]) -> str:
    lines = markdown_row(*map(str, head), head=True)
    for row in rows:
        lines += markdown_row(*map(str, row))
    return "\n".join(lines)
