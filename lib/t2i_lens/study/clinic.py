"""A visit to the clinic: one file of a TI embedding in, one page and one better file out."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from t2i_lens.experiments import clinic
from t2i_lens.experiments.prompt_sets import Prompt, load_prompts
from t2i_lens.figures.curves import Curve, curves
from t2i_lens.figures.pictures import picture_grid
from t2i_lens.inversion.embedding_table import Vocabulary, read_table
from t2i_lens.inversion.embeddings import PROVENANCE
from t2i_lens.inversion.own_tokens import check_class_word, check_token
from t2i_lens.inversion.published_files import LearnedToken, read_tokens
from t2i_lens.inversion.training_plan import recipe
from t2i_lens.methods import remedies
from t2i_lens.methods.remedies import Remedy
from t2i_lens.models.tokens import text_towers
from t2i_lens.study.render import TEMPLATES
from t2i_lens.study.subject import Subject

PROMPTS = 6  # of the hero's


@dataclass(frozen=True, eq=False)
class Visit:
    """Everything that was found.

    Attributes:
        row: From `clinic.row_measures`.
        attention: From `clinic.attention_measures`.
        drawn: From `clinic.draw`.
        found: From `clinic.outcomes`.
        findings: From `clinic.diagnosis`.
        best: Name of the remedy that is advised.
    """

    patient: clinic.Patient
    prompts: list[Prompt]
    row: dict
    attention: object
    drawn: dict
    found: dict
    findings: list[str]
    best: str


def admit(
    subject: Subject, file: Path, class_word: str | None, name: str | None
) -> tuple[clinic.Patient, Vocabulary]:
    """Read a file and find what its token is compared with.

    Args:
        class_word: An ordinary word; by default the one that stands in the provenance beside it.
        name: See `published_files.read_tokens`.

    Raises:
        ValueError: several tokens or vectors, rows of another model or for an encoder's output, no
            class word, or as `own_tokens.check_class_word` and `check_token`.
        OSError: there is no such file.
    """
    tokens = read_tokens(file, name)
    if len(tokens) > 1:
        names = ", ".join(token.name for token in tokens)
        raise ValueError(f"{file} holds {names}: write one of them with `embeddings convert`")
    (token,) = tokens
    about = _provenance(file)
    word = class_word or about.get("concept", {}).get("superclass")
    if not word:
        raise ValueError(f"{token.name!r}: name an ordinary word for it with --class-word")
    pipe = subject.pipe.get()
    _refuse(token, pipe)
    check_class_word(pipe.tokenizer, word)
    check_token(pipe.tokenizer, token.name, token.rows[0], subject.model.name)
    table = read_table(pipe, [word])
    words, config = subject.vocabulary(table), about.get("config", {})
    own = table["rows"][table["word_ids"][0]]
    rate = config.get("learning_rate", recipe(subject.model.name).learning_rate)
    row, steps = token.rows[0][0].float(), config.get("steps")
    return clinic.Patient(token.name, row, word, torch.from_numpy(own), rate, steps), words


def _refuse(token: LearnedToken, pipe) -> None:
    widths = [encoder.get_input_embeddings().embedding_dim for _, encoder in text_towers(pipe)]
    given = [rows.shape[1] for rows in token.rows]
    if token.output:
        raise ValueError(f"{token.name!r} replaces an encoder's output: the clinic treats inputs")
    if len(given) > 1:
        raise ValueError(f"{token.name!r} is for SDXL: the clinic treats tokens of SD 1 and 2")
    if given != widths:
        raise ValueError(
            f"{token.name!r} has rows of width {given[0]}, the model needs {widths[0]}: name its "
            "own with --profile"
        )
    if len(token.rows[0]) > 1:
        count = len(token.rows[0])
        raise ValueError(f"{token.name!r} has {count} vectors: the clinic treats tokens of one")


def _provenance(file: Path) -> dict:
    beside = Path(file).with_name(PROVENANCE)
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def prompts() -> list[Prompt]:
    """The sentences that a visit draws."""
    return load_prompts("hero")[:PROMPTS]


def visit(
    subject: Subject, patient: clinic.Patient, words: Vocabulary, prompts: list[Prompt]
) -> Visit:
    """Measure a token and compare its remedies."""
    pipe = subject.pipe.get()
    row = clinic.row_measures(patient, words)
    attention = clinic.attention_measures(pipe, patient, prompts)
    drawn = clinic.draw(pipe, patient, words, prompts)
    found = clinic.outcomes(subject.judge.get(), subject.eye.get(), drawn, prompts)
    findings = clinic.diagnosis(row, attention, found["token"]["lost"], found["class word"]["lost"])
    best = clinic.advised(found)
    return Visit(patient, prompts, row, attention, drawn, found, findings, best)


def advice(some: Visit) -> str:
    """What to do, in a sentence or two."""
    best, own = some.found[some.best], some.found["token"]
    if some.best == "token":
        return "Keep the token as it is: no remedy keeps the concept and loses fewer objects."
    saved = own["lost"].value - best["lost"].value
    overlap = best["lost"].high >= own["lost"].low
    sure = " The intervals overlap: draw more pictures to be sure." if overlap else ""
    return (
        f"Use the remedy “{some.best}”: {saved:.2f} fewer objects lost per picture, at "
        f"{100 * best['likeness'] / own['likeness']:.0f} % of the concept's likeness.{sure}"
    )


def prescription(some: Visit, folder: Path) -> Path:
    """Write the advised remedy as a file that diffusers loads, and return it.

    Where keys are locked as well, plain diffusers reads the row alone; `methods.remedies.load`
    reads both.
    """
    stem = "".join(c if c.isalnum() else "_" for c in some.patient.name).strip("_") or "token"
    remedy = _remedy(some, some.best)
    return remedies.save(remedy, some.patient.name, folder / f"{stem}-better.safetensors")


def _remedy(some: Visit, name: str) -> Remedy:
    return next(remedy for remedy in some.drawn["remedies"] if remedy.name == name)


def page(some: Visit, file: Path, profile: str, better: Path) -> str:
    """The visit as one self-contained HTML page.

    Args:
        file: What was examined.
        better: From `prescription`.
    """
    rows = [
        {
            "name": name, "lost": f"{each['lost']:.2f}", "kept": f"{each['kept']:.2f}",
            "likeness": f"{each['likeness']:.2f}", "best": name == some.best,
        }
        for name, each in some.found.items()
    ]  # fmt: skip
    return TEMPLATES.get_template("clinic.html").render(
        name=some.patient.name, file=Path(file).name, profile=profile,
        class_word=some.patient.class_word, seeds=len(clinic.SEEDS),
        pictures=sum(int(np.prod(p.shape[:2])) for p in some.drawn["pictures"].values()),
        findings=some.findings, advice=advice(some), remedies=rows, front=_png(front(some)),
        grid=_png(grid(some)), measures=measures(some), better=Path(better).name,
        embedding=_remedy(some, some.best).is_embedding,
    )  # fmt: skip


def measures(some: Visit) -> list[tuple[str, str, str]]:
    """Rows of the page's table: quantity, token, class word."""
    row, attention = some.row, some.attention
    usual = float(some.patient.class_row.norm())
    law = "steps unknown" if np.isnan(row["law norm"]) else f"{row['law norm']:.2f}"
    found = [
        ("norm", f"{row['norm']:.2f}", f"{usual:.2f}"),
        ("norm over the vocabulary's mean", f"{row['norm over mean']:.2f}", ""),
        ("share of words that are shorter", f"{row['longer than']:.2f}", ""),
        ("norm by the law of √steps", law, ""),
        ("cosine to the class word", f"{row['cosine to class word']:.2f}", "1.00"),
        ("cosine to BOS", f"{row['cosine to BOS']:.2f}", ""),
        ("largest cosine to any word", f"{row['nearest']:.2f}", ""),
    ]
    return found + [
        (f"{name}, at the slot", *(f"{attention.loc[who, name]:.2f}" for who in attention.index))
        for name in attention.columns
    ]


def front(some: Visit) -> Figure:
    """Remedies as points: likeness against objects kept."""
    styles = {"token": "placeholder", "class word": "content", some.best: "law"}
    panels = {
        name: Curve(np.array([each["likeness"]]), np.array([each["kept"].value]),
                    styles.get(name, i / len(some.found)), "o-")
        for i, (name, each) in enumerate(some.found.items())
    }  # fmt: skip
    return curves({"": panels}, "likeness of the concept", "share of objects kept", height=3.0)


def grid(some: Visit) -> Figure:
    """A row per remedy, a column per prompt, first seed."""
    names = list(some.found)
    shown = np.stack([some.drawn["pictures"][name][:, 0] for name in names])
    columns = ["alone", *(" + ".join(prompt.context) for prompt in some.prompts)]
    return picture_grid(shown, names, columns)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return base64.b64encode(buffer.getvalue()).decode()
