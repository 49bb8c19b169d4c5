"""The token embedding table of a pipeline, sorted by training, and the TI embeddings.

TI embeddings come from this project's folders; of embeddings that others published only the norms
are known.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float, Int

from t2i_lens.base.paths import BUILD, DATA
from t2i_lens.inversion.embeddings import Inversion, load

NEVER_TRAINED = 0.01  # of the median norm: below it a row has decayed to nothing


@dataclass(frozen=True)
class Vocabulary:
    """The rows of an embedding table, sorted into trained and never-trained ones.

    Attributes:
        trained: Rows of ordinary tokens that training saw, [token, d_model].
        trained_ids: Their ids, rising.
        pieces: Their text, without the mark of a word's end.
        never: Rows of tokens that training never saw, [token, d_model].
        bos: Row of BOS, [d_model].
        eos: Row of EOS, [d_model].
    """

    trained: Float[np.ndarray, "token d_model"]
    trained_ids: Int[np.ndarray, " token"]
    pieces: list[str]
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

    Returns:
        `rows` float32 [token, d_model], `pieces` [token], `bos` and `eos` ids,
        `word_ids` [word].

    Raises:
        ValueError: a word is not one token, or the text encoder is offloaded.
    """
    tokenizer = pipe.tokenizer
    word_ids = []
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"'{word}' is {len(ids)} tokens; an initializer is one token")
        word_ids += ids
    table = pipe.text_encoder.get_input_embeddings().weight
    if table.is_meta:
        raise ValueError("the text encoder is offloaded: read its table before that")
    rows = table.detach().float().cpu().numpy()
    return {
        "rows": rows[: len(tokenizer)],
        "pieces": np.array(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))),
        "bos": np.asarray(tokenizer.bos_token_id),
        "eos": np.asarray(tokenizer.eos_token_id),
        "word_ids": np.asarray(word_ids, dtype=np.int64),
    }


def read_counts(folder: Path, size: int) -> Int[np.ndarray, " token"] | None:
    """How often each token id occurred in the text encoder's training captions.

    Args:
        folder: Model folder; its `token_counts.json` maps the ids that occurred to counts.
        size: Number of rows of the embedding table.

    Returns:
        A count per id, or None where the model's captions are not known.

    Raises:
        ValueError: an id has no row, so the counts are of another vocabulary.
    """
    file = Path(folder) / "token_counts.json"
    if not file.exists():
        return None
    counts = np.zeros(size, dtype=np.int64)
    for token, count in json.loads(file.read_text()).items():
        if int(token) >= size:
            raise ValueError(f"{file} counts id {token}, the table has {size} rows; count anew")
        counts[int(token)] = count
    return counts


def sort_vocabulary(
    table: dict[str, np.ndarray], counts: Int[np.ndarray, " token"] | None
) -> Vocabulary:
    """Sort rows into trained and never-trained ones; BOS and EOS are kept apart.

    Args:
        table: From `read_table`.
        counts: From `read_counts`. Without counts, rows shorter than a hundredth of the
            median count as never trained: weight decay has taken them to zero.
    """
    rows = table["rows"]
    norms = np.linalg.norm(rows, axis=1)
    seen = counts > 0 if counts is not None else norms > NEVER_TRAINED * np.median(norms)
    ordinary = np.ones(len(rows), dtype=bool)
    ordinary[[int(table["bos"]), int(table["eos"])]] = False
    trained = np.flatnonzero(ordinary & seen)
    return Vocabulary(
        trained=rows[trained],
        trained_ids=trained,
        pieces=[str(piece).removesuffix("</w>") for piece in table["pieces"][trained]],
        never=rows[ordinary & ~seen],
        bos=rows[int(table["bos"])],
        eos=rows[int(table["eos"])],
    )


def folder_of(profile: str) -> Path:
    """Folder of a profile's TI embeddings: next to a shipped model's, or among the user's.

    Raises:
        ValueError: no such profile.
    """
    from t2i_lens.models.profiles import get  # loads pipelines, which not every command needs

    return (BUILD if get(profile).on_hub else DATA) / "embeddings" / profile


def load_inversions(folder: Path) -> list[Inversion]:
    """Every TI embedding saved under a folder, the hero first, then by name.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [load(file.parent) for file in sorted(Path(folder).glob("*/provenance.json"))]
    if not found:
        raise FileNotFoundError(
            f"no TI embeddings in {folder}; train them with `t2i-lens invert --profile "
            f"{folder.name}`, or bring a file with `t2i-lens embeddings add`"
        )
    return sorted(found, key=lambda inversion: not inversion.concept.hero)


def variants_folder(folder: Path) -> Path:
    """Folder of the other variants of the inversions in `folder`, each in a folder of its name."""
    return Path(folder).with_name(f"{Path(folder).name}-variants")


def doses_folder(folder: Path) -> Path:
    """Folder of the table of doses of the inversions in `folder`, see `dose`."""
    return Path(folder).with_name(f"{Path(folder).name}-doses")


def laws_folder(folder: Path) -> Path:
    """Folder of the trainings that test the law of the norm, see `law_runs`."""
    return Path(folder).with_name(f"{Path(folder).name}-laws")


def load_variants(folder: Path) -> pd.DataFrame:
    """Every TI embedding of a model that was trained here, in the standard way and in others.

    Args:
        folder: Of the standard inversions, as in `load_inversions`.

    Returns:
        Columns variant ("standard" or the folder's name), concept, kind and superclass
        (see `embeddings.Concept`), seed, learning_rate,
        initialisation, contexts and pictures (see `inversion_plan.Variant`), templates (how
        many), placeholder_token, vector (final, [d_model]), norm (of it), trajectory and config
        (see `embeddings.Inversion`).

    Raises:
        FileNotFoundError: there are no standard ones, or none with a record of its training.
        ValueError: a placeholder has several vectors.
    """
    found = [("standard", inversion) for inversion in load_inversions(folder)]
    for file in sorted(variants_folder(folder).glob("*/*/provenance.json")):
        found.append((file.parent.parent.name, load(file.parent)))
    found = [(variant, inversion) for variant, inversion in found if len(inversion.trajectory)]
    if not found:
        raise FileNotFoundError(
            f"no TI embedding in {folder} has a record of its training; train some with "
            f"`t2i-lens invert --profile {folder.name}`"
        )
    rows = []
    for variant, inversion in found:
        if len(inversion.embedding) != 1:
            raise ValueError(f"{variant}/{inversion.concept.name} has several vectors, not one")
        vector = inversion.embedding[0].numpy()
        rows.append(
            {
                "variant": variant,
                "concept": inversion.concept.name,
                "kind": inversion.concept.kind,
                "superclass": inversion.concept.superclass,
                "seed": inversion.config["seed"],
                "learning_rate": inversion.config["learning_rate"],
                "initialisation": inversion.provenance.get("initialisation", "class_word"),
                "contexts": inversion.provenance.get("contexts", "none"),
                "pictures": inversion.provenance.get("pictures", "own"),
                "templates": len(inversion.config["templates"]),
                "placeholder_token": inversion.concept.placeholder_token,
                "vector": vector,
                "norm": float(np.linalg.norm(vector)),
                "trajectory": inversion.trajectory,
                "config": inversion.config,
            }
        )
    return pd.DataFrame(rows)


def published_trajectory(file: Path = DATA / "published_embeddings.yaml") -> dict:
    """A public token's norm over its training, in the form `growth` takes.

    The norm that its training started from was not published: the mean trained norm of its
    model stands in for it.
    """
    published = yaml.safe_load(Path(file).read_text())
    run = published["trajectory"]
    model = published["models"][run["model"]]
    return {
        "steps": np.asarray(run["steps"]),
        "norms": np.asarray([run["norms"]]),
        "initial": np.asarray([model["trained_mean_norm"]]),
        "width": model["width"],
        "learning_rate": run["learning_rate"],
        "weight_decay": run["weight_decay"],
    }


def published_probe(file: Path = DATA / "published_embeddings.yaml") -> dict[str, np.ndarray]:
    """A published probe for position 0 at forced norms: `ratios` to the mean norm, `accuracy`."""
    published = yaml.safe_load(Path(file).read_text())
    probe = published["position_probe"]
    unit = published["models"][probe["model"]]["trained_mean_norm"]
    return {"ratios": np.array(probe["norms"]) / unit, "accuracy": np.array(probe["accuracy"])}
