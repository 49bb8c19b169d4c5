"""Which property of a training makes learned tokens take over? Outcomes in twins of the toybox.

The same concepts are learned in every twin with the same recipe, and drawn in the same sentences
from the same latents. A token's cost is the share of a sentence's other objects that are lost,
minus that share with the class word; another noun in its place shows what a change of word costs.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import cycle, pairwise

import numpy as np
import pandas as pd
import torch
import xarray as xr
from PIL import Image

from t2i_lens.base.files import digest
from t2i_lens.base.lazy import Lazy, canonical
from t2i_lens.base.prompts import Prompt
from t2i_lens.experiments.arms import Arm, Design, arms_of
from t2i_lens.experiments.prompt_sets import OTHER_NOUNS, load_prompts
from t2i_lens.inversion import embeddings
from t2i_lens.inversion.embeddings import Concept, Inversion, with_tokens
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_plan import recipe
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.models.tokens import encode
from t2i_lens.stats.bootstrap import Estimate, crossed_bootstrap
from t2i_lens.toybox.quality.drawing import drawn_shares
from t2i_lens.toybox.training import twins as trainings
from t2i_lens.toybox.training.twins import AGAIN, TWINS

PROMPT_SET, PROMPTS, ALONE = "hero", 5, Prompt("a photo of a {}", ())
CONCEPTS, SEEDS = 12, (0, 1)
SAMPLING = {"num_inference_steps": 12, "guidance_scale": 7.5}
INVERSION = recipe("toybox")
TOKEN, CLASS_WORD, OTHER = "TI token", "class word", "another noun"
QUALITY_PROMPTS = 24  # of each kind
# The four corners: (encoder, captions); the fifth twin stands beside them.
CORNERS = ("contrastive_careless", "contrastive_complete", "recall_careless", "recall_complete")
UNMIXED = "unmixed_careless"
# Pictures that ship, for the figure and for the judge to read again.
SHOWN_CONCEPTS, SHOWN_PROMPT, SHOWN_ARMS = 3, 0, (TOKEN, CLASS_WORD)
KEYS = ["twin", "concept", "arm", "prompt", "seed"]


def concepts(all_concepts: Sequence[Concept]) -> list[Concept]:
    """The objects that are learned: the first twelve that the toybox was not chosen on."""
    held_out = [c for c in all_concepts if c.kind == "object" and not c.development]
    return held_out[:CONCEPTS]


def designs(chosen: Sequence[Concept]) -> list[Design]:
    """A design for each concept: token, class word and another noun, alone and among others."""
    prompts = [*load_prompts(PROMPT_SET)[:PROMPTS], ALONE]
    turns = zip(chosen, cycle(OTHER_NOUNS), strict=False)
    return [Design(arms_of(c, another_noun=noun), prompts, SEEDS) for c, noun in turns]


def prepare(twin: str, chosen: Sequence[Concept]) -> tuple[Lazy, list[Inversion]]:
    """Train a twin and learn the concepts in it, unless that is done.

    Returns: The twin's pipeline with its tokens, and the tokens.
    """
    folder = trainings.train(twin) / "tokens"
    pipe = trainings.twin_pipeline(twin)
    if not all((folder / concept.name / embeddings.PROVENANCE).exists() for concept in chosen):
        for inversion in train(pipe.get(), chosen, INVERSION, fingerprint=pipe.fingerprint):
            embeddings.save(inversion, folder)
    learned = [embeddings.load(folder / concept.name) for concept in chosen]
    return with_tokens(pipe, learned), learned


def minutes(twins: int, chosen: Sequence[Concept]) -> float:
    """Estimated minutes of training twins, learning the concepts and drawing them.

    A step of inversion costs as much as one of the U-Net's training, a pass without gradients a
    third of it.
    """
    drawn = sum(len(d.arms) * len(d.prompts) * len(d.seeds) for d in designs(chosen))
    passes = 2 * drawn * SAMPLING["num_inference_steps"] / (3 * trainings.UNET.batch)
    steps = trainings.UNET.steps + INVERSION.steps + passes
    return twins * steps * trainings.seconds_per_step() / 60


def answers(judge: Judge, pictures: xr.DataArray, design: Design) -> pd.DataFrame:
    """What the judge finds in each picture of a design.

    Args: pictures: From `arms.draw`.

    Returns:
        A row per picture with columns `concept`, `arm`, `prompt`, `seed`; `found`, whether the
        subject of the arm is there; `lost`, how many of the `asked` other objects are not.

    Shown in: book/toybox.md
    """
    values = pictures.to_numpy()
    nouns = np.asarray(judge.read(values.reshape(-1, *values.shape[-3:])).nouns)
    nouns = nouns.reshape(len(design.arms), len(design.prompts), len(design.seeds), -1)
    rows = []
    for (number, place, draw), chances in _cells(nouns):
        arm, prompt = design.arms[number], design.prompts[place]
        rows.append(_row(judge, arm, prompt, chances) | {"seed": design.seeds[draw]})
    return pd.DataFrame(rows)


def _cells(nouns: np.ndarray):
    return ((index, nouns[index]) for index in np.ndindex(nouns.shape[:3]))


def _row(judge: Judge, arm: Arm, prompt: Prompt, chances: np.ndarray) -> dict:
    missed = [chances[judge.nouns.index(noun)] < FOUND for noun in prompt.context]
    return {
        "concept": arm.concept, "arm": arm.name, "prompt": prompt.text,
        "found": int(chances[judge.nouns.index(arm.subject)] >= FOUND),
        "lost": int(sum(missed)), "asked": len(prompt.context),
    }  # fmt: skip


def character(pipe, judge: Judge) -> pd.DataFrame:
    """A twin's own row: the share of prompts drawn whole by kind, and how much its states mix.

    Returns:
        One row: shares in [0, 1] by kind of `quality.drawing`; `mixing`, the mean cosine of the
        state of the second noun with the state of the padding after it, in sentences of two nouns.
    """
    shares = drawn_shares(pipe, judge, QUALITY_PROMPTS)
    return pd.DataFrame([shares | {"mixing": mixing(pipe)}])


@torch.no_grad()
def mixing(pipe) -> float:
    """Mean cosine of a second noun's state with that of the first padding token, in [-1, 1].

    Args: pipe: Stable Diffusion with one text encoder.
    """
    cosines = []
    for noun, other in pairwise(OTHER_NOUNS):
        row = encode(pipe, f"a {noun} next to a {other}")
        ids = torch.tensor([row.ids], device=pipe.text_encoder.device)
        states = pipe.text_encoder(ids).last_hidden_state[0].float()
        pair = states[row.positions(other)[-1]], states[row.eos + 1]
        cosines.append(float(torch.cosine_similarity(*pair, dim=0)))
    return float(np.mean(cosines))


def shown(pictures: xr.DataArray) -> pd.DataFrame:
    """The pictures of a concept that ship, one PNG a row, for `as_pictures`."""
    rows = []
    text = str(pictures["prompt"].values[SHOWN_PROMPT])
    for arm in SHOWN_ARMS:
        for seed in pictures["seed"].values:
            picture = pictures.sel(arm=arm, prompt=text, seed=seed).squeeze("concept").to_numpy()
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG", optimize=True)
            concept = str(pictures["concept"].values[0])
            rows.append({"concept": concept, "arm": arm, "prompt": text, "seed": int(seed),
                         "png": content.getvalue()})  # fmt: skip
    return pd.DataFrame(rows)


def as_pictures(pngs: Sequence[bytes]) -> np.ndarray:
    """Bytes 0..255 `[picture, height, width, 3]`."""
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])


def read_again(judge: Judge, kept: pd.DataFrame) -> pd.DataFrame:
    """`answers` on the pictures that ship, with their twin.

    Args: kept: Rows of `shown`, with a column `twin`.
    """
    readings = np.asarray(judge.read(as_pictures(kept["png"].tolist())).nouns)
    prompts = {prompt.text: prompt for prompt in load_prompts(PROMPT_SET)}
    by_name = {(a.concept, a.name): a for d in designs(_named(kept)) for a in d.arms}
    rows = []
    for (_, row), chances in zip(kept.iterrows(), readings, strict=True):
        arm = by_name[row["concept"], row["arm"]]
        found = _row(judge, arm, prompts[row["prompt"]], chances)
        rows.append(found | {"seed": row["seed"], "twin": row["twin"]})
    return pd.DataFrame(rows)


def _named(kept: pd.DataFrame) -> list[Concept]:
    wanted = set(kept["concept"])
    return [concept for concept in embeddings.load_concepts() if concept.name in wanted]


def cost(table: pd.DataFrame, arm: str = TOKEN) -> pd.DataFrame:
    """Share of other objects lost with an arm minus with the class word [concept, twin].

    Args: table: Of `answers`, of all twins.
    """
    among = table[table["asked"] > 0]
    share = (among["lost"] / among["asked"]).groupby([among[k] for k in ("twin", "arm", "concept")])
    means = share.mean().unstack("twin")
    return means.loc[arm] - means.loc[CLASS_WORD]


def interaction(costs: pd.DataFrame) -> pd.Series:
    """(Contrastive, careless minus complete) minus (recall, careless minus complete) [concept].

    Args: costs: Of `cost`; raises KeyError if a corner is not there.
    """
    mixed_careless, mixed_complete, apart_careless, apart_complete = (costs[c] for c in CORNERS)
    return (mixed_careless - mixed_complete) - (apart_careless - apart_complete)


def captions_effect(costs: pd.DataFrame) -> pd.Series:
    """Careless minus complete captions, mean of the two encoders [concept], in the costs' unit.

    Args: costs: Of `cost`, or another number [concept, twin]; raises KeyError if a corner is not
        there.

    Shown in: notebooks/30_twins.ipynb
    """
    mixed_careless, mixed_complete, apart_careless, apart_complete = (costs[c] for c in CORNERS)
    return (mixed_careless - mixed_complete + apart_careless - apart_complete) / 2


def trained_again(values: pd.DataFrame) -> pd.DataFrame:
    """The corners' second trainings, under the names of the first [concept, corner].

    Args: values: Of `cost`, or another number [concept, twin].
    """
    return values[[corner + AGAIN for corner in CORNERS]].set_axis(list(CORNERS), axis=1)


def over_concepts(values: pd.Series, seed: int = 0) -> Estimate:
    """Mean over concepts with a 95 % bootstrap interval over them."""
    return crossed_bootstrap(values.to_numpy(float), seed=seed)


def mark(
    twin: str, weights: Sequence[str], chosen: Sequence[Concept], more: Mapping | None = None
) -> str:
    """Hash of the settings behind a twin's rows.

    Args:
        weights: Fingerprints of the toybox that twins start from, and of the judge.
        more: Settings of the table in question.
    """
    of = {
        "twin": TWINS[twin].recipe, "weights": list(weights), "sampling": SAMPLING,
        "inversion": asdict(INVERSION), "quality": QUALITY_PROMPTS,
        "designs": [design.fingerprint for design in designs(chosen)], **(more or {}),
    }  # fmt: skip
    return digest(json.dumps(canonical(of)).encode())
