"""Judges find objects in pictures, and eyes compare pictures: the readers of each profile.

The toybox has a judge of its own, trained on the world's pictures only. For all other profiles an
open-vocabulary detector (OWLv2, Minderer et al. 2023) looks for the same nouns, and DINOv2 (Oquab
et al. 2023) compares pictures. Their error rates are not measured here.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8
from scipy.special import expit, logit
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    Dinov2Model,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    PreTrainedModel,
)

from t2i_lens.base.files import file_digest
from t2i_lens.base.lazy import Lazy, lazy_file
from t2i_lens.base.paths import DATA
from t2i_lens.inversion.embedding_table import load_inversions
from t2i_lens.judging.protocols import FOUND
from t2i_lens.models.model_files import quiet
from t2i_lens.models.profiles import best_device, hub_commit
from t2i_lens.toybox import judge, likeness

DETECTOR, ENCODER = "google/owlv2-base-patch16-ensemble", "facebook/dinov2-base"
QUERY = "a photo of a {}"
THRESHOLD = 0.1  # of the detector's score, as in its documentation's examples
TOGETHER = 8  # pictures in a batch of the detector


@dataclass(frozen=True)
class Found:
    """Reading of the detector: probabilities [picture, noun], `FOUND` at its threshold."""

    nouns: Float[np.ndarray, "picture noun"]


class Detector:
    """A judge for any picture: each box gets the likeliest of all words that are looked for.

    A learned concept whose name no prompt uses is looked for by its class word.
    """

    def __init__(self, model: Owlv2ForObjectDetection, processor, looked_for: Mapping[str, str]):
        self.nouns, self._words = list(looked_for), list(dict.fromkeys(looked_for.values()))
        self._column = [self._words.index(word) for word in looked_for.values()]
        self._model, self._processor = model.eval(), processor

    @torch.no_grad()
    def read(self, images: UInt8[np.ndarray, "picture height width 3"]) -> Found:
        """Looks for every noun in every picture."""
        scores, device = [], self._model.device
        queries = [QUERY.format(word) for word in self._words]
        for start in range(0, len(images), TOGETHER):
            batch = list(images[start : start + TOGETHER])
            inputs = self._processor(text=[queries] * len(batch), images=batch, return_tensors="pt")
            logits = self._model(**inputs.to(device)).logits.float()  # [picture, box, word]
            held = logits.where(logits == logits.amax(-1, keepdim=True), -torch.inf)
            scores.append(held.amax(1).cpu().numpy())
        return Found(expit(np.concatenate(scores) - logit(THRESHOLD))[:, self._column])

    def present(self, reading: Found, noun: str) -> np.ndarray:
        """Is the noun there? bool [picture]."""
        return reading.nouns[:, self.nouns.index(noun)] >= FOUND


class Encoder:
    """An eye for any picture: DINOv2's pooled feature, as in DINO scores of subject fidelity."""

    def __init__(self, model: Dinov2Model, processor):
        self._model, self._processor = model.eval(), processor

    @torch.no_grad()
    def embed(
        self, pictures: UInt8[np.ndarray, "picture height width 3"], batch_size: int = 32
    ) -> Float[np.ndarray, "picture feature"]:
        """Unit vectors."""
        parts = []
        for start in range(0, len(pictures), batch_size):
            batch = list(pictures[start : start + batch_size])
            inputs = self._processor(images=batch, return_tensors="pt").to(self._model.device)
            parts.append(self._model(**inputs).pooler_output.float().cpu())
        return normalize(torch.cat(parts), dim=-1).numpy()


def world_judge() -> Lazy:
    """The judge of the toybox's pictures, trained on its world; a `protocols.Judge`."""
    return lazy_file(judge.load_judge, judge.FOLDER / "judge.safetensors")


def world_eye() -> Lazy:
    """The picture tower of the toybox's world, see `toybox.likeness`."""
    return lazy_file(likeness.load_eye, likeness.FOLDER / likeness.WEIGHTS)


def world_clip(pipe: Lazy) -> Lazy:
    """The text encoder of a pipeline with the toybox's picture tower, which it was trained with."""
    from t2i_lens.toybox.training.export import load_pair  # brings the training along

    tower = file_digest(likeness.FOLDER / likeness.WEIGHTS)
    return Lazy(lambda: load_pair(pipe.get()), f"{pipe.fingerprint} {tower}")


def public_judge(folder: Path) -> Lazy:
    """A detector for any picture, which looks for the nouns of a model's prompts.

    Args:
        folder: Of the model's TI embeddings.
    Warns: UserWarning: the message names the detector and its commit.

    Raises:
        OSError: its commit can be looked up neither on the Hub nor in the cache.
    """
    looked_for, commit = nouns_of(folder), _current(DETECTOR)

    def load() -> Detector:
        processor = _loaded(Owlv2Processor, DETECTOR, commit, backend="pil")
        return Detector(_network(Owlv2ForObjectDetection, DETECTOR, commit), processor, looked_for)

    return Lazy(load, f"{DETECTOR}@{commit}: {QUERY}, {THRESHOLD}, {looked_for}")


def public_eye() -> Lazy:
    """An eye for any picture, see `toybox.likeness.likeness`.

    Warns, raises: As `public_judge`, of the encoder.
    """
    commit = _current(ENCODER)

    def load() -> Encoder:
        processor = _loaded(AutoImageProcessor, ENCODER, commit, backend="pil")
        return Encoder(_network(Dinov2Model, ENCODER, commit), processor)

    return Lazy(load, f"{ENCODER}@{commit}")


def nouns_of(folder: Path, prompts: Path = DATA / "prompts") -> dict[str, str]:
    """Every noun of a model's prompts, with the word that the detector looks for.

    They are those of the prompt sets, the class words of the model's TI embeddings, and their
    names: a name is looked for by its class word, unless it is one of the nouns.

    Args:
        folder: Of the TI embeddings, which need not be there.
    """
    sets = yaml.safe_load((prompts / "prompts.yaml").read_text())
    words = yaml.safe_load((prompts / "words.yaml").read_text())
    nouns = {noun for group in sets.values() for prompt in group for noun in prompt["context"]}
    nouns |= {noun for group in words.values() for noun in (*group["animals"], *group["objects"])}
    learned = {}
    if folder.exists():
        concepts = [inversion.concept for inversion in load_inversions(folder)]
        learned = {concept.name: concept.superclass for concept in concepts}
    return learned | {noun: noun for noun in sorted(nouns | set(learned.values()))}


def _current(repo: str) -> str:
    commit = hub_commit(repo)
    warnings.warn(f"pictures are looked at by {repo}, unpinned, at commit {commit}", stacklevel=3)
    return commit


def _network(kind: type[PreTrainedModel], repo: str, commit: str) -> PreTrainedModel:
    return _loaded(kind, repo, commit, use_safetensors=True).to(best_device())


def _loaded(kind, repo: str, commit: str, **options):
    with quiet():
        return kind.from_pretrained(repo, revision=commit, **options)
