"""The clinic: what is wrong with one trained token, and what helps without training it again.

Shown in: notebooks/24_clinic.ipynb
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.inversion.embedding_table import Vocabulary
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.methods.remedies import Remedy, prepared, remedies
from t2i_lens.models.tokens import encode
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.heat_maps import token_shares
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.text_attention import read_prompts
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap

ALONE = "a photo of a {}"
SEEDS, REFERENCES = (0, 1), (100, 101, 102, 103)  # of the pictures, and of the references
KEPT_LIKENESS = 0.9  # share of the token's own likeness that a remedy must keep to be advised
STEPS = {"num_inference_steps": 10}
# A word in its place scatters like this; a token is called long, or turned, beyond it.
LONG, SELF, LOST = 2.0, 0.5, 0.25


@dataclass(frozen=True, eq=False)
class Patient:
    """A trained token with what it is compared with.

    Attributes:
        name: The placeholder.
        row: Its row, [d_model].
        class_word: An ordinary word, one token.
        class_row: That word's row.
        learning_rate: Of its training, or of the profile's recipe where that is not known.
        steps: Of its training, or None.
    """

    name: str
    row: torch.Tensor
    class_word: str
    class_row: torch.Tensor
    learning_rate: float
    steps: int | None = None


def row_measures(patient: Patient, words: Vocabulary) -> dict[str, float]:
    """What can be told from the row alone.

    Returns:
        `norm`; `norm over mean`, its ratio to the mean trained row; `longer than`, the share of the
        vocabulary that is shorter; `law norm`, the norm that AdamW gives at the training's steps,
        nan where they are not known; `implied steps`, after which the law gives this norm;
        `cosine to class word`, `cosine to BOS`; `nearest`, the largest cosine to any word.
    """
    row, width = patient.row.double(), len(patient.row)
    norm, start = float(row.norm()), float(patient.class_row.norm())
    growth = width * patient.learning_rate**2
    trained = torch.from_numpy(words.trained).double()
    norms = trained.norm(dim=1)
    near = functional.cosine_similarity(trained, row[None], dim=1)
    law = float("nan") if patient.steps is None else np.sqrt(start**2 + growth * patient.steps)
    return {
        "norm": norm,
        "norm over mean": norm / words.mean_norm,
        "longer than": float((norms < norm).double().mean()),
        "law norm": float(law),
        "implied steps": max(0.0, (norm**2 - start**2) / growth),
        "cosine to class word": float(functional.cosine_similarity(row, patient.class_row, 0)),
        "cosine to BOS": float(
            functional.cosine_similarity(row, torch.from_numpy(words.bos).double(), 0)
        ),
        "nearest": float(near.max()),
    }


@torch.no_grad()
def position_kept(pipe, row: torch.Tensor) -> float:
    """How much the first layer still sees of a row's position: 1 minus the mean cosine between its
    normalised inputs at different positions. A row much longer than the position embeddings has 0.
    """
    text = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    places = text.embeddings.position_embedding.weight
    inputs = text.encoder.layers[0].layer_norm1(row.to(places) + places[1:20])
    unit = functional.normalize(inputs.float(), dim=-1)
    cosines = unit @ unit.T
    count = len(unit)
    return float(1 - (cosines.sum() - count) / (count * (count - 1)))


def attention_measures(pipe, patient: Patient, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """The slot's attention, for the token and for its class word, mean over prompts.

    Returns:
        Rows `token` and `class word`; columns `self-attention`, of the first text layer from the
        slot to itself, mean over heads; `cross-attention`, the slot's share; `position kept`.
    """
    found = {}
    for name, row in (("token", patient.row), ("class word", patient.class_row)):
        remedy = Remedy(name, row)
        texts = [prompt.text for prompt in prompts]
        sentences, edits = prepared(pipe, remedy, patient.class_word, texts, [])
        reading = read_prompts(pipe, sentences, layers=[0], edits=edits)
        slots = [encode(pipe, s).positions(patient.class_word)[0] for s in sentences]
        own = [float(reading.patterns[i, 0, :, p, p].mean()) for i, p in enumerate(slots)]
        with record(pipe, Keep()) as recorder:
            generate(pipe, sentences, SEEDS[:1], edits=edits, **STEPS)
        shares = token_shares(recorder.maps()).cpu().numpy()
        found[name] = {
            "self-attention": float(np.mean(own)),
            "cross-attention": float(np.mean([shares[i, p] for i, p in enumerate(slots)])),
            "position kept": position_kept(pipe, row),
        }
    return pd.DataFrame(found).T


def draw(pipe, patient: Patient, words: Vocabulary, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Draw the token with every remedy, the class word, and the token alone.

    Returns:
        `remedies`; `pictures`, remedy -> [prompt, seed, ...], the concept alone first; `reference`,
        what the token draws alone with other seeds.
    """
    longest = float(np.linalg.norm(words.trained, axis=1).max())
    some = remedies(patient.row, patient.class_row, patient.class_word, longest)
    some.append(Remedy("class word", patient.class_row))
    layers = list(cross_attention_layers(pipe.unet))
    texts = [ALONE, *(prompt.text for prompt in prompts)]
    pictures = {}
    for remedy in some:
        sentences, edits = prepared(pipe, remedy, patient.class_word, texts, layers)
        pictures[remedy.name] = generate(pipe, sentences, list(SEEDS), edits=edits, **STEPS)
    sentences, edits = prepared(pipe, some[0], patient.class_word, texts[:1], layers)
    reference = generate(pipe, sentences, list(REFERENCES), edits=edits, **STEPS)[0]
    return {"remedies": some, "pictures": pictures, "reference": reference}


def outcomes(
    judge: Judge, eye, drawn: Mapping[str, Any], prompts: Sequence[Prompt]
) -> dict[str, dict[str, Any]]:
    """Each remedy on the two axes.

    Returns:
        Remedy -> `lost`, objects per picture; `kept`, the share of them that is found; `likeness`
        to what the token draws alone, means over prompts and seeds, the first two with an interval.
    """
    found, reference = {}, eye.embed(drawn["reference"])
    for name, pictures in drawn["pictures"].items():
        alone, among = pictures[0], pictures[1:]
        nouns = np.asarray(judge.read(among.reshape(-1, *among.shape[2:])).nouns)
        nouns = nouns.reshape(*among.shape[:2], -1)
        lost = np.array(
            [
                (nouns[i][:, [list(judge.nouns).index(n) for n in prompt.context]] < FOUND).sum(-1)
                for i, prompt in enumerate(prompts)
            ],
            dtype=float,
        )
        asked = np.array([len(prompt.context) for prompt in prompts])[:, None]
        like = eye.embed(alone) @ reference.T
        found[name] = {
            "lost": crossed_bootstrap(lost),
            "kept": crossed_bootstrap(1 - lost / asked),
            "likeness": float(like.mean()),
        }
    return found


def advised(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The remedy that loses the fewest objects among those that keep the concept's likeness.

    Among equals it is the first: the token as it is, then embeddings, then key locks.

    Args:
        found: From `outcomes`, in the order of `methods.remedies.remedies`.
    """
    own = found["token"]
    fit = [
        name
        for name, each in found.items()
        if name != "class word" and each["likeness"] >= KEPT_LIKENESS * own["likeness"]
    ]
    return min(fit, key=lambda name: found[name]["lost"].value)


def diagnosis(
    row: Mapping[str, float], attention: pd.DataFrame, lost: Estimate, usual: Estimate
) -> list[str]:
    """Findings in sentences, the most serious first; empty where nothing is out of the ordinary."""
    said = []
    more = lost.value - usual.value
    if lost.low > usual.high:
        said.append(f"It removes {more:.2f} more objects per picture than its class word does.")
    elif more > LOST:
        said.append(
            f"It may remove objects ({more:+.2f} per picture against its class word), but the "
            "intervals overlap: draw more pictures."
        )
    if row["norm over mean"] > LONG:
        said.append(
            f"It is {row['norm over mean']:.1f} times as long as an ordinary word, as after about "
            f"{row['implied steps']:.0f} steps at the training's rate."
        )
    if (
        attention.loc["token", "position kept"]
        < SELF * attention.loc["class word", "position kept"]
    ):
        said.append("The text encoder hardly sees where it stands in the sentence.")
    if (
        attention.loc["token", "cross-attention"]
        > LONG * attention.loc["class word", "cross-attention"]
    ):
        said.append("It takes more than twice its class word's share of cross-attention.")
    return said


def cost(pipe, prompts: Sequence[Prompt], arms: int = 7) -> float:
    """Estimated seconds of a visit, from one small batch drawn here."""
    generate(pipe, [ALONE.replace("{}", "photo")], [0], num_inference_steps=1)
    began = time.perf_counter()
    generate(pipe, [ALONE.replace("{}", "photo")] * 2, [0], num_inference_steps=2)
    per_step = (time.perf_counter() - began) / 4
    pictures = arms * (len(prompts) + 1) * len(SEEDS) + len(REFERENCES) + 2 * len(prompts)
    return per_step * STEPS["num_inference_steps"] * pictures
