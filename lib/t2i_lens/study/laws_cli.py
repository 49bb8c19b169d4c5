"""The command `t2i-lens laws`."""

from dataclasses import replace
from pathlib import Path


def laws() -> None:
    """Train the tokens that test the law of the norm, draw those of different decay, store both.

    Prints a time estimate first, skips what is stored already, and resumes after an interruption.
    """
    from t2i_lens.experiments import law_runs
    from t2i_lens.inversion import embeddings, training_plan
    from t2i_lens.inversion.embedding_table import (
        laws_folder,
        read_counts,
        read_table,
        sort_vocabulary,
    )
    from t2i_lens.models import profiles
    from t2i_lens.study import manifest
    from t2i_lens.study.subject import Subject

    subject, concepts = Subject("toybox"), embeddings.load_concepts()
    folder, model = laws_folder(subject.folder), replace(subject.model, dtype="float32")
    planned = law_runs.runs(training_plan.recipe("toybox"), concepts, folder)
    fingerprint = profiles.fingerprint(model)
    left = training_plan.pending(planned, fingerprint)
    if left:
        pipe = profiles.load(model, subject.device)
        together = law_runs.TOGETHER
        minutes = training_plan.seconds(pipe, left, together) / 60
        print(f"{len(left)} of {len(planned)} runs to train: about {minutes:.0f} min", flush=True)
        rows = read_table(pipe)
        words = sort_vocabulary(rows, read_counts(Path(model.repo), len(rows["rows"])))
        names = training_plan.names(concepts)
        training_plan.carry_out(pipe, left, fingerprint, words, names, together=together)
    designs, pictures = law_runs.designs(law_runs.load_runs(planned), concepts)
    lazy = (subject.pipe, subject.judge, subject.eye)
    print(law_runs.carry_out(*lazy, designs, pictures, folder))
    manifest.update()
