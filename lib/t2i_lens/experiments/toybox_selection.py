"""Choose among trainings of the toybox, on the development concepts and two numbers only.

`python -m t2i_lens.experiments.toybox_selection NAME` trains the development concepts on the newest
weights of a training folder, measures whether they are drawn and what they cost, and adds a row to
`selection.json` and `selection.md`.

Shown in: book/toybox.md
"""

import json
from dataclasses import replace
from typing import Annotated

import pandas as pd
import typer

from t2i_lens.base.paths import BUILD
from t2i_lens.experiments.prompt_sets import load_prompts
from t2i_lens.inversion.embeddings import attach, load_concepts
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_plan import recipe
from t2i_lens.toybox import judge
from t2i_lens.toybox.quality.drawing import drawn_shares
from t2i_lens.toybox.takeover import measure_pair
from t2i_lens.toybox.training import export
from t2i_lens.toybox.training.train import PRESETS, best_device, tokenizer_of

SENTENCES = "development"  # of data/prompts/prompts.yaml
SEEDS, SAMPLING_STEPS = range(4), 12
STANDARD = recipe("toybox")
FILE = export.TOYBOX / "selection.json"
HEAD = """# Which training was chosen, and what was tried

A toybox is chosen for having the phenomenon, as a strain of mice is. Every variant tried is here.
Only the development concepts ({concepts}) were looked at, in sentences that no chapter uses, and
only these numbers; everything else is measured on held-out concepts after the choice.
`token` and `class word` share their latents; `lost` is the share of the other objects that the
judge does not find, the mean over concepts.

"""


def main(
    name: Annotated[str, typer.Argument(help="what to call this variant")],
    preset: Annotated[str, typer.Option(help="whose folder and dials")] = "cpu",
    steps: Annotated[int, typer.Option(help="of the inversion")] = STANDARD.steps,
    rate: Annotated[float, typer.Option(help="of the inversion")] = STANDARD.learning_rate,
    batch: Annotated[int, typer.Option(help="of the inversion")] = STANDARD.batch_size,
    note: Annotated[str, typer.Option(help="what is told of it")] = "",
) -> None:
    """Add a row for the newest weights of a training folder."""
    folder, device = BUILD / "toybox" / preset, best_device()
    words = tokenizer_of(folder)
    pipe, _ = export.pipeline_of(folder, PRESETS[preset], words, device)
    reader = judge.Judge(judge.train(folder, PRESETS[preset].judge, device).cpu())
    concepts = [concept for concept in load_concepts() if concept.development]
    config = replace(STANDARD, steps=steps, learning_rate=rate, batch_size=batch)
    row = {"variant": name, "note": note, "inversion steps": steps}
    row |= {"inversion rate": rate, "inversion batch": batch}
    row |= {kind: round(value, 3) for kind, value in drawn_shares(pipe, reader).items()}
    learned = train(pipe, concepts, config)
    per_concept, prompts = [], load_prompts(SENTENCES)
    for inversion in learned:
        concept = inversion.concept
        attach(pipe, inversion)
        token, plain = measure_pair(
            pipe, reader, concept, prompts, SEEDS, num_inference_steps=SAMPLING_STEPS
        )
        per_concept.append(
            {
                "concept": concept.name,
                "norm": float(inversion.embedding.norm(dim=-1).mean()),
                "token: alone": token.alone.mean(),
                "token: alike": token.alike.mean(),
                "token: among others": token.among.mean(),
                "token: lost": token.lost.mean(),
                "class word: alone": plain.alone.mean(),
                "class word: among others": plain.among.mean(),
                "class word: lost": plain.lost.mean(),
                "objects lost, token minus class word": (
                    token.lost_objects - plain.lost_objects
                ).mean(),
            }
        )
    table = pd.DataFrame(per_concept)
    print(table.to_string())
    means = table.drop(columns="concept").mean()
    row |= {key: round(float(value), 3) for key, value in means.items()}
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    rows = [other for other in rows if other["variant"] != name] + [row]
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    write_page(rows, [concept.name for concept in concepts])


def write_page(rows: list[dict], concepts: list[str]) -> None:
    """Write `selection.md`: a column per variant."""
    listed = pd.DataFrame(rows).set_index("variant").T.astype(object)
    table = listed.where(listed.notna(), "").to_markdown()
    (export.TOYBOX / "selection.md").write_text(
        HEAD.format(concepts=", ".join(concepts)) + table + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
