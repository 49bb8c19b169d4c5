"""Generated pages of the book: which chapter runs on which profile, and the cost of recording."""

import json
from collections.abc import Collection
from pathlib import Path

from t2i_lens.base.paths import DATA
from t2i_lens.models.profiles import PROFILES
from t2i_lens.study.claims import markdown_row
from t2i_lens.study.support import load_support, reason_against

CAPTURE = DATA / "results" / "capture.json"
# What is asked of our recorder, from before it was measured.
MOST_TIME, MOST_OPERATIONS, MOST_XL_STATE = 1.02, 13, 35e6

PROFILES_PAGE = """\
(profiles)=
# Models and chapters

A chapter runs on every profile with a ✓ below; a letter stands for the reason why it does not run on another.
Asked to, it stops at its first cell with that reason.
What this book shows was measured on the toybox.
That the chapters run on others is tested with small random models of the real classes, which stand in a cache of the Hub under the names, commits and layers of SD 1.5 and SDXL; what a chapter's code does to a pipeline is also tested on Stable Diffusion 2 and 3.

{chapters}

{reasons}

## Another model than the toybox

A machine that reaches the Hub, or a cache with the model, is all that a chapter needs on another profile, besides TI embeddings of that model.

```
t2i-lens invert --profile sd15 --variant standard --concept cat_toy
t2i-lens embeddings add FILE --class-word toy --profile sd15
t2i-lens run 04_attention_dominance -p profile=sd15 -p num_inference_steps=50
```

The first trains the concepts of this study, and says first how long it will take; `09_norm_growth` and `10_destruction` want all variants, and `10_destruction` what `t2i-lens doses --profile sd15` draws.
The second brings a token that is there already, from a file or, by an id such as `sd-concepts-library/cat-toy`, from the Hub.

What differs from the toybox:
the judge is a detector, OWLv2 {{cite:p}}`minderer2023owlv2`, that looks for the nouns of the prompts, and for a learned concept by its class word; likeness is that of DINOv2 {{cite:p}}`oquab2024dinov2`.
How often they err on drawn pictures is not measured here, and colours they do not tell.
Sentences of two objects are made of other words.
A verdict uses the bound that the claim has for the toybox, unless `data/claims.yaml` gives the profile its own.
Of SDXL's two text encoders, chapters on text attention read the first.

## The profiles

Pictures of the toybox's size are drawn on a processor; the others want a GPU.
A profile names the commit of its repository, so that a result names its model; one without is looked up when it is used, with a warning, and the commit goes into the provenance.
Layers are those that read the text.

{models}
"""  # noqa: E501

CAPTURE_PAGE = """\
(capture)=
# What recording costs

Cross-attention of the U-Net of Stable Diffusion 1.5 was recorded in each of the ways below: the real configuration with random weights in float32, latents of 64×64, one prompt with guidance, one thread on a processor ({processor}, torch {torch}).
All ways took turns in one run. A time is of the processor, in brackets are the lowest and the highest of {rounds} rounds.

- **fused** is PyTorch's own attention kernel, the default of diffusers, and **eager** is diffusers' plain one, in cross-attention alone.
- `t2i_lens` computes probabilities beside a fused kernel and changes no bit of the picture; beside an eager one it takes those that are there.
- `t2i_lens, shared` draws the recorded half with the probabilities that it records. Pictures change by rounding.
- `daam` ({daam}) brings an eager kernel of its own and keeps heads apart.
- `attention-map-diffusers` ({other}) keeps queries and keys of every step and computes probabilities afterwards, which is not in its times.

## Time

{times}

The middle columns are ratios to the first line: all cross-attention layers, and the whole step.
Operations are those of one cross-attention layer that compute or copy, recording included, with {few} and with {many} heads.

## State

What is held after so many steps, in MB, and after one step of SDXL at 1024 pixels.
These are the sizes of the real tensors on a device without memory.

{states}

## Memory

How much the process grew in a step and while the heat maps of all tokens were made, in MB, and the time that making them took.
What a process has freed before it uses again, so only large differences say something.

{memory}

## Bars

Asked of our recorder before it was measured:

{bars}
"""  # noqa: E501

NOT_YET = """\
(capture)=
# What recording costs

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
