"""The command `t2i-lens`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t2i_lens.base.paths import DATA
from t2i_lens.study import book as pages
from t2i_lens.study import (
    claims,
    embeddings_cli,
    execute,
    laws_cli,
    remedies_cli,
    survey_cli,
    sweeps_cli,
)
from t2i_lens.study import scoreboard as board
from t2i_lens.study.parameters import check

# Heavy modules are imported by the command that needs them: `book` must answer at once.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(embeddings_cli.app, name="embeddings")
app.command()(survey_cli.survey)
app.command()(laws_cli.laws)
app.command()(remedies_cli.remedies)
for command in sweeps_cli.COMMANDS:
    app.command()(command)


@app.command()
def book() -> None:
    """Execute the notebooks that are out of date and build the book from them."""
    console, jobs = Console(), execute.chapters()
    unlisted = {job.notebook.stem for job in jobs} ^ set(pages.toc())
    if unlisted:
        raise execute.RunError(
            f"{', '.join(sorted(unlisted))}: in book/_toc.yml or notebooks/ only"
        )
    executed = execute.execute(jobs, console)
    built = pages.build(jobs, console)
    what = "book built" if built else "book is up to date"
    console.print(f"{what}: {pages.SITE / 'index.html'}", highlight=False, soft_wrap=True)
    count, fresh = len(executed), len(jobs) - len(executed)
    console.print(f"{count} of {len(jobs)} executed, {fresh} up to date", highlight=False)
    for message in pages.roomless(jobs):
        console.print(message, highlight=False, markup=False)
    _report(pages.drift(jobs))


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="name, such as 01_hero")],
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value")] = None,
) -> None:
    """Execute one notebook with your own parameters; the book stays as it is."""
    file = execute.find(notebook)
    job = execute.trial(file, check(file, parameter or []))
    executed = execute.execute([job], Console())
    print(f"{job.executed}{'' if executed else ' is up to date'}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="YAML, such as notebooks/sweeps/norms.yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print a time estimate")] = False,
) -> None:
    """Run a grid of notebooks and collect their claims in one table.

    Other options are passed to Snakemake. Without any, the command uses the cores of this machine;
    `--executor slurm --jobs 20` uses a cluster.
    """
    from t2i_lens.study import sweep as grid
    from t2i_lens.study import sweep_table

    plan = grid.plan(config)
    print(plan.cost(), flush=True)
    if dry_run:
        return
    grid.launch(plan, context.args)
    rows = sweep_table.gather(plan)
    table, page = sweep_table.save(rows, plan)
    undone = rows[rows["status"] != "done"]["cell"].nunique()
    print(f"{table}\n{page}")
    if undone:
        raise execute.RunError(f"{undone} of {len(plan.jobs)} runs are missing, see {page}")


@app.command("claims")
def show_claims(
    json: Annotated[bool, typer.Option("--json", help="every field, as JSON")] = False,
) -> None:
    """List every claim on every profile with its recorded verdict."""
    stated, recorded = claims.load_claims(), claims.load_records(pages.RECORDED)
    if json:
        print(board.claims_json(stated, recorded))
        return
    table = Table()
    for column in ("claim", "profile", *board.COLUMNS, "statement"):
        table.add_column(column, overflow="fold")  # no number is cut in a narrow window
    for claim, record in board.rows(stated, recorded):
        texts = (escape(text) for text in board.row_texts(record).values())
        table.add_row(record.id, record.profile, *texts, claim.statement)
    Console().print(table)


@app.command()
def record(
    notebook: Annotated[list[str] | None, typer.Argument(help="only these; all by default")] = None,
) -> None:
    """Make the measured claims the records that later runs are compared with."""
    from t2i_lens.study import manifest

    console, every = Console(), execute.chapters()
    asked = {execute.find(name) for name in notebook or []}
    jobs = [job for job in every if not asked or job.notebook in asked]
    execute.execute(jobs, console)
    changes = pages.drift(jobs)
    for job in jobs:
        folder = pages.RECORDED / job.target.parent.name
        claims.write_records(pages.fresh([job]), folder / f"{job.notebook.stem}.json")
        for old in set(folder.glob("*.json")) - {folder / f"{j.notebook.stem}.json" for j in every}:
            old.unlink()
        if job.notebook.stem == pages.HERO[0]:
            pages.HERO[2].write_bytes(pages.figure(job, pages.HERO[1]))
    manifest.update()
    for change in changes:
        console.print(change, highlight=False, markup=False)
    console.print(f"{len(pages.fresh(jobs))} claims recorded, {len(changes)} differ from before")


@app.command()
def invert(
    concept: Annotated[list[str] | None, typer.Option(help="only these; all by default")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="only these; all by default")] = None,
    profile: Annotated[str, typer.Option(help="model to train on")] = "toybox",
) -> None:
    """Train the placeholder tokens of data/concepts in all variants that the chapters need.

    Prints a time estimate first, skips tokens already trained, and resumes after an interruption.
    """
    from dataclasses import replace

    from t2i_lens.inversion import embeddings, training_plan
    from t2i_lens.inversion.embedding_table import (
        folder_of,
        read_counts,
        read_table,
        sort_vocabulary,
    )
    from t2i_lens.models import profiles
    from t2i_lens.study import manifest

    console, concepts, device = Console(), embeddings.load_concepts(), profiles.best_device()
    model = profiles.settle(profiles.get(profile), device)
    model = replace(model, dtype="float32")  # half precision would round small gradients to nothing
    plan = training_plan.plan(training_plan.recipe(profile), concepts)
    for what, asked, names in (
        ("concept", concept, [c.name for c in concepts]),
        ("variant", variant, [v.name for v in plan]),
    ):
        if unknown := set(asked or []) - set(names):
            missing = ", ".join(sorted(unknown))
            raise ValueError(f"no {what} {missing}; there are: {', '.join(names)}")
    mark, folder = profiles.fingerprint(model), folder_of(profile)
    plan = [v for v in plan if not variant or v.name in variant]
    planned = training_plan.runs(plan, concepts, embeddings.load_contexts, folder)
    planned = [run for run in planned if not concept or run.concept.name in concept]
    left = training_plan.pending(planned, mark)
    table = Table("variant", "runs", "to train", "steps", "rate", "start", "contexts")
    for v in plan:
        counts = (str(sum(run.variant is v for run in some)) for some in (planned, left))
        table.add_row(
            v.name, *counts, str(v.config.steps), f"{v.config.learning_rate:g}",
            v.initialisation, v.contexts,
        )  # fmt: skip
    console.print(table)
    if left:
        pipe = profiles.load(model, device)
        rows = read_table(pipe)
        words = sort_vocabulary(rows, read_counts(Path(model.repo), len(rows["rows"])))
        together = training_plan.TOGETHER.get(profile, 1)
        minutes = training_plan.seconds(pipe, left, together) / 60
        console.print(f"{len(left)} of {len(planned)} runs to train: about {minutes:.0f} min")
        training_plan.carry_out(
            pipe, left, mark, words, training_plan.names(concepts), together=together
        )
    if folder.is_relative_to(DATA):
        manifest.update()


@app.command()
def doses(
    share: Annotated[float, typer.Option(help="of the concepts, hero first", min=0.01, max=1)] = 1,
    profile: Annotated[str, typer.Option(help="model to draw with")] = "toybox",
) -> None:
    """Draw every learned token at several steps of its training and store the objects lost.

    Prints a time estimate first, and resumes after an interruption.
    """
    from t2i_lens.base.paths import BUILD
    from t2i_lens.experiments import dose
    from t2i_lens.experiments.prompt_sets import load_prompts
    from t2i_lens.inversion.embedding_table import read_table
    from t2i_lens.study import manifest
    from t2i_lens.study.store import Store
    from t2i_lens.study.subject import Subject

    subject = Subject(profile)
    pipe, looker, tokens = subject.pipe, subject.judge, subject.variants
    nouns = list(dict.fromkeys(tokens["superclass"]))
    rows = read_table(pipe.get(), nouns)
    table = dose.doses(tokens, dict(zip(nouns, rows["rows"][rows["word_ids"]], strict=True)))
    names = list(dict.fromkeys(table["concept"]))
    table = table[table["concept"].isin(names[: max(1, round(share * len(names)))])]
    prompts = load_prompts(dose.PROMPT_SET)
    measured = dose.carry_out(Store(BUILD / "results"), pipe, looker, table, prompts)
    marked = dose.marks(pipe, looker, table, prompts)
    print(dose.save(measured, marked, subject.doses_folder))
    if subject.folder.is_relative_to(DATA):
        manifest.update()


@app.command()
def times() -> None:
    """Show the time of each chapter's last run, the slowest first, with its slowest cells."""
    from t2i_lens.study.times import chapter_times

    found = chapter_times(execute.chapters())
    table = Table("chapter", "seconds", "share", "slowest cells, seconds")
    for row in found.to_dict("records"):
        share = f"{100 * row['share']:.0f} %"
        table.add_row(row["chapter"], f"{row['seconds']:.0f}", share, row["cells"])
    Console().print(table)
    total = found["seconds"].sum() / 60
    print(f"{len(found)} chapters, {total:.1f} min one after the other")


@app.command()
def clinic(
    file: Annotated[str, typer.Argument(metavar="FILE", help="or an id sd-concepts-library/…")],
    profile: Annotated[str, typer.Option(help="model that it was trained on")] = "toybox",
    class_word: Annotated[str | None, typer.Option(help="ordinary word, one token")] = None,
    name: Annotated[str | None, typer.Option(help="placeholder, in place of its own")] = None,
    output: Annotated[Path, typer.Option(help="folder of the page and of the file")] = Path(),
) -> None:
    """Examine a TI embedding, compare remedies that need no retraining, and save the best.

    Prints a time estimate first. Writes one page, and one file that diffusers loads.
    """
    from t2i_lens.experiments import clinic as examined
    from t2i_lens.inversion.concept_library import locate
    from t2i_lens.study import clinic as visits
    from t2i_lens.study.subject import Subject

    source = locate(file)
    subject = Subject(profile)
    patient, words = visits.admit(subject, source, class_word, name)
    prompts = visits.prompts()
    seconds = examined.cost(subject.pipe.get(), prompts)
    shown, minutes = embeddings_cli.shown, max(1, seconds / 60)
    print(shown(f"{patient.name} against {patient.class_word!r}: about {minutes:.0f} min"),
          flush=True)  # fmt: skip
    found = visits.visit(subject, patient, words, prompts)
    output.mkdir(parents=True, exist_ok=True)
    better = visits.prescription(found, output)
    page = better.with_suffix(".html")
    page.write_text(visits.page(found, source, profile, better), encoding="utf-8")
    for line in (*found.findings, visits.advice(found), str(page), str(better)):
        print(shown(line))


@app.command("profiles")
def list_profiles(
    chapters: Annotated[bool, typer.Option("--chapters", help="chapters on profiles")] = False,
) -> None:
    """List the models that a notebook can run on."""
    from t2i_lens.models.profiles import PROFILES, best_device, describe_need, on_device
    from t2i_lens.study.support import load_support, reason_against

    if chapters:
        table, listed = Table("chapter", *PROFILES, "why not the others"), load_support()
        for chapter in sorted(listed):
            reasons = [reason_against(chapter, profile, listed) for profile in PROFILES]
            why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
            table.add_row(chapter, *("" if reason else "yes" for reason in reasons), why)
        Console().print(table)
        return
    device = best_device()
    table = Table(
        "profile", "repository", "commit", "pictures", "steps", "guidance", "layers", "needs"
    )
    for p in PROFILES.values():
        repo = p.repo if p.on_hub else str(Path(p.repo).relative_to(DATA.parent))
        commit = (p.revision or "unpinned")[:12] if p.on_hub else "shipped"
        here = on_device(p, device)
        table.add_row(
            p.name, repo, commit, f"{p.height}×{p.width}", str(p.num_inference_steps),
            str(p.guidance_scale), str(p.cross_attention_layers), describe_need(here, device),
        )  # fmt: skip
    Console().print(table)


def _report(changes: list[str]) -> None:
    if changes:
        text = "\n".join(changes)
        raise execute.RunError(f"{text}\nclaims differ from the records: `make record` if meant")


def main() -> None:
    """Run a command; an expected error becomes one short message and exit code 1."""
    # A library's remarks on optional packages would stand before the one line of an error.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except (execute.RunError, ValueError, OSError) as error:
        lines = str(error).split("\n")
        print("error: " + "\n".join(map(embeddings_cli.shown, lines)), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
