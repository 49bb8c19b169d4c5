"""The token embedding table as a cloud of points: its rows, their lengths and directions.

`read_table` takes the rows out of a pipeline; everything after that is arrays.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA

from t2i_lens.metrics import (
    explained_shares,
    marchenko_pastur_density,
    marchenko_pastur_edges,
    mean_pairwise_cosine,
    pairwise_histogram,
    unit_rows,
)
from t2i_lens.stats import random_subsets

NEVER_TRAINED = 0.01  # of the median norm: below it a row has decayed to nothing


@dataclass(frozen=True)
class Vocabulary:
    """The rows of an embedding table, sorted by what training did to them.

    Attributes:
        trained: Rows of ordinary tokens that training saw, [token, d_model].
        never: Rows of tokens that training never saw, [token, d_model].
        bos: Row of BOS, [d_model].
        eos: Row of EOS, [d_model].
    """

    trained: Float[np.ndarray, "token d_model"]
    never: Float[np.ndarray, "never d_model"]
    bos: Float[np.ndarray, " d_model"]
    eos: Float[np.ndarray, " d_model"]

    @property
    def mean_norm(self) -> float:
        """Mean norm of the trained rows: the unit in which other norms are given."""
        return float(np.linalg.norm(self.trained, axis=1).mean())


def read_table(pipe, words: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The embedding table of a pipeline's text encoder.

    Args:
        pipe: A pipeline with `tokenizer` and `text_encoder`, no placeholder attached.
        words: Single-token words whose ids are wanted, e.g. initializer tokens.
    Returns: `rows` float32 [token, d_model], `bos` and `eos` ids, `word_ids` [word].
    Raises: ValueError: a word is not one token.
    """
    tokenizer = pipe.tokenizer
    word_ids = []
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"'{word}' is {len(ids)} tokens; an initializer is one token")
        word_ids += ids
    rows = pipe.text_encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    return {
        "rows": rows[: len(tokenizer)],
        "bos": np.asarray(tokenizer.bos_token_id),
        "eos": np.asarray(tokenizer.eos_token_id),
        "word_ids": np.asarray(word_ids, dtype=np.int64),
    }


def read_counts(folder: Path) -> Int[np.ndarray, " token"] | None:
    """How often each token id occurred in the text encoder's training captions.

    Args:
        folder: Model folder; its `token_counts.json` lists a count per id.
    Returns: Counts, or None where the model's captions are not known.
    """
    file = Path(folder) / "token_counts.json"
    return np.asarray(json.loads(file.read_text()), dtype=np.int64) if file.exists() else None


def sort_vocabulary(
    table: dict[str, np.ndarray], counts: Int[np.ndarray, " token"] | None
) -> Vocabulary:
    """Tell trained rows from never-trained ones; BOS and EOS are kept apart.

    Args:
        table: From `read_table`.
        counts: From `read_counts`. Without counts, rows shorter than a hundredth of the
            median count as never trained: weight decay has taken them to zero.
    Raises: ValueError: the counts are not one per row.
    """
    rows = table["rows"]
    if counts is not None and len(counts) != len(rows):
        raise ValueError(f"{len(counts)} token counts for {len(rows)} rows; retrain or recount")
    norms = np.linalg.norm(rows, axis=1)
    seen = counts > 0 if counts is not None else norms > NEVER_TRAINED * np.median(norms)
    ordinary = np.ones(len(rows), dtype=bool)
    ordinary[[int(table["bos"]), int(table["eos"])]] = False
    bos, eos = rows[int(table["bos"])], rows[int(table["eos"])]
    return Vocabulary(rows[ordinary & seen], rows[ordinary & ~seen], bos, eos)


def gaussian_rows(
    rows: Float[np.ndarray, "token d_model"], seed: int
) -> Float[np.ndarray, "token d_model"]:
    """Random rows of the same shape and mean squared length: the control for any geometry."""
    scale = np.sqrt(np.square(rows).mean())
    return np.random.default_rng(seed).normal(0, scale, rows.shape).astype(rows.dtype)


def pair_distributions(
    rows: Float[np.ndarray, "token d_model"], sample: int, bins: int, seed: int
) -> dict[str, np.ndarray]:
    """Dot products and cosines over all pairs, over a sample's pairs, and over random rows'.

    Args:
        rows: Trained rows.
        sample: Rows in the sample; all of them if there are fewer.
        bins: Bins of each histogram, symmetric about 0.
        seed: Of the sample and of the random rows.
    Returns: `dot_edges`, `cosine_edges`, and for each of `all`, `sample`, `random` the fields
        of `pairwise_histogram` under names like `all_cosine_counts`.
    Shown in: notebooks/03_cosine_pca.ipynb
    """
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(rows), size=min(sample, len(rows)), replace=False)
    longest = float(np.square(np.linalg.norm(rows, axis=1)).max())
    edges = {
        "dot": np.linspace(-longest, longest, bins + 1),
        "cosine": np.linspace(-1, 1, bins + 1),
    }
    result = {f"{name}_edges": value for name, value in edges.items()}
    sets = {"all": rows, "sample": rows[picked], "random": gaussian_rows(rows, seed)}
    for name, some in sets.items():
        for product, units in {"dot": some, "cosine": unit_rows(some)}.items():
            fields = pairwise_histogram(units, edges[product])
            result |= {f"{name}_{product}_{field}": value for field, value in fields.items()}
    return result


def subset_geometry(
    rows: Float[np.ndarray, "token d_model"], subsets: int, share: float, seed: int
) -> dict[str, np.ndarray]:
    """Mean |cosine| and first principal share over random subsets of the rows.

    Subsets are drawn without replacement: a row that occurs twice would be parallel to
    itself and inflate both numbers.

    Args:
        rows: Trained rows.
        subsets: Number of subsets.
        share: Part of the rows in each.
        seed: Of the subsets.
    Returns: `mean_abs_cosine` and `first_share`, one value per subset.
    """
    members = random_subsets(len(rows), share, subsets, seed)
    units, weights = unit_rows(rows), members.astype(np.float32)
    sums = np.zeros(subsets)
    for start in range(0, len(rows), 1024):
        block = slice(start, start + 1024)
        absolute = np.abs(units[block] @ units.T)
        sums += np.einsum("sb,sb->s", weights[:, block], weights @ absolute.T)
    size = members[0].sum()
    return {
        # each row met itself once, with cosine 1
        "mean_abs_cosine": (sums - size) / (size * (size - 1)),
        "first_share": np.array([explained_shares(rows[m], centred=True)[0] for m in members]),
    }


def group_cosines(
    rows: Float[np.ndarray, "token d_model"], size: int, draws: int, seed: int
) -> Float[np.ndarray, " draw"]:
    """Mean pairwise cosine of random groups of rows: what a group shares by being tokens."""
    rng = np.random.default_rng(seed)
    groups = (rng.choice(len(rows), size=size, replace=False) for _ in range(draws))
    return np.array([mean_pairwise_cosine(rows[group]) for group in groups])


def principal_plane(
    rows: Float[np.ndarray, "token d_model"], others: dict[str, Float[np.ndarray, "any d_model"]]
) -> dict[str, Float[np.ndarray, "any 2"]]:
    """Where rows and others lie on the first two principal axes of the rows, mean at 0."""
    pca = PCA(n_components=2, svd_solver="full").fit(rows)
    return {name: pca.transform(some) for name, some in {"rows": rows, **others}.items()}


def spectrum(
    rows: Float[np.ndarray, "token d_model"], seed: int
) -> dict[str, Float[np.ndarray, " any"]]:
    """Explained shares, centred and not, beside a random matrix and its limit law.

    Args:
        rows: Trained rows, more of them than coordinates.
        seed: Of the random matrix.
    Returns: `centred`, `uncentred`, `random` shares per component; `law_x`, `law_y` the
        Marchenko-Pastur density of eigenvalues in units of their mean.
    """
    count, width = rows.shape
    random = explained_shares(gaussian_rows(rows, seed), centred=True)
    grid = np.geomspace(*marchenko_pastur_edges(count, width), 400)
    return {
        "centred": explained_shares(rows, centred=True),
        "uncentred": explained_shares(rows, centred=False),
        "random": random,
        "law_x": grid,
        "law_y": marchenko_pastur_density(grid, count, width),
    }
