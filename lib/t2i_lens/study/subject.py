"""The subject of a study: a model profile with all that depends on which profile it is.

Model, judge and eye of its pictures, TI embeddings, words and sentences, measured quality, bounds
of claims: chapters and experiments take them from here and do not look at the profile's name.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from t2i_lens.base.lazy import Lazy
from t2i_lens.experiments import prompt_sets
from t2i_lens.inversion import embedding_table
from t2i_lens.inversion.embeddings import Inversion
from t2i_lens.inversion.published_files import bring_public
from t2i_lens.models import profiles
from t2i_lens.study.claims import load_claims
from t2i_lens.study.verdicts import DEFAULT, Bound

# Judges bring large libraries along: they are imported where a chapter asks for one.


class Subject:
    """A model profile with its judge, tokens and words; expensive parts are made when first used.

    Attributes:
        model: The profile as it runs here, see `profiles.settle`.
        device: Where it runs, see `profiles.best_device`.
        pipe: Its pipeline, loaded when first needed.
        folder: Of its TI embeddings.
    """

    def __init__(self, profile: str):
        """Args: profile: Name of a model profile.

        Warns: UserWarning: the profile is not pinned; the message names the commit used.

        Raises:
            ValueError: no such profile.
            OSError: an open commit can be looked up neither on the Hub nor in the cache.
        """
        self.device = profiles.best_device()
        model = self.model = profiles.settle(profiles.get(profile), self.device)
        self.pipe = Lazy(lambda: profiles.load(model, self.device), profiles.fingerprint(model))
        self.folder = embedding_table.folder_of(profile)

    @cached_property
    def judge(self) -> Lazy:
        """Finds named objects in its pictures, a `judging.protocols.Judge`: the world's own, or a
        public detector where not everything is known that can be drawn.

        Warns: UserWarning: a public detector is taken; the message names its commit.

        Raises:
            OSError: the detector's commit can be looked up neither on the Hub nor in the cache.
        """
        from t2i_lens.judging import judges

        return judges.world_judge() if self._known else judges.public_judge(self.folder)

    @cached_property
    def eye(self) -> Lazy:
        """Sees its pictures as unit vectors, a `toybox.likeness.Eye`. Warns, raises: as `judge`."""
        from t2i_lens.judging import judges

        return judges.world_eye() if self._known else judges.public_eye()

    @cached_property
    def clip(self) -> Lazy:
        """The text encoder with the picture tower it was trained against.

        Raises:
            ValueError: the picture tower of this model is not known.
        """
        from t2i_lens.judging import judges

        if not self._known:
            raise ValueError(f"the picture tower of {self.model.name!r} is not known")
        return judges.world_clip(self.pipe)

    @cached_property
    def tokens(self) -> list[Inversion]:
        """Its TI embeddings, trained in the standard way, the hero first.

        Where there are none, those of `data/public_tokens.yaml` are fetched.

        Raises:
            FileNotFoundError: there are none, and none are listed for the profile.
            OSError: there are none, and the listed ones cannot be fetched.
            ValueError: one is of another width than the model's.
        """
        if not any(self.folder.glob("*/provenance.json")):
            bring_public(self.model.name)
        found = embedding_table.load_inversions(self.folder)
        for inversion in found:
            self._require_width(inversion.concept.placeholder_token, inversion.embedding.shape[1])
        return found

    def _require_width(self, token: str, given: int) -> None:
        (width, *_) = profiles.text_widths(self.model) or (0,)
        if given != width:
            raise ValueError(
                f"{token!r} has rows of width {given}, {self.model.name} takes {width}: "
                f"remove it from {self.folder}"
            )

    def require_tokens(self, chapter: str, kind: str, count: int) -> None:
        """Refuse a profile with fewer TI embeddings than a chapter compares.

        Args:
            kind: "single" for those of one vector, "objects" for those that are no styles, or
                "single objects".
            count: How many of them.

        Raises:
            ValueError: there are fewer; the message says what to do.
        """
        found = sum(
            ("single" not in kind or len(inversion.embedding) == 1)
            and ("objects" not in kind or inversion.concept.kind == "object")
            for inversion in self.tokens
        )
        if found < count:
            told = {"single": "of one vector", "objects": "of objects"}
            which = " ".join(told[word] for word in kind.split())
            raise ValueError(
                f"{chapter} needs {count} TI embeddings {which}, {self.model.name} has {found}: "
                f"bring more with `t2i-lens embeddings add --profile {self.model.name}`"
            )

    @cached_property
    def variants(self) -> pd.DataFrame:
        """All its TI embeddings that were trained here, see `embedding_table.load_variants`.

        Raises:
            ValueError: one is of another width than the model's; or as `load_variants`.
        """
        found = embedding_table.load_variants(self.folder)
        for token, vector in zip(found["placeholder_token"], found["vector"], strict=True):
            self._require_width(token, len(vector))
        return found

    @property
    def doses_folder(self) -> Path:
        """Folder of the table of doses of its TI embeddings."""
        return embedding_table.doses_folder(self.folder)

    def vocabulary(self, table: dict[str, np.ndarray]) -> embedding_table.Vocabulary:
        """Its embedding table, sorted into trained and never-trained rows.

        Args:
            table: From `embedding_table.read_table`.
        """
        own = self._own_file("token_counts.json")
        counts = embedding_table.read_counts(own.parent, len(table["rows"])) if own else None
        return embedding_table.sort_vocabulary(table, counts)

    @cached_property
    def words(self) -> dict:
        """The words of its sentences: an entry of `data/prompts/words.yaml`."""
        return prompt_sets.read_words(self.model.world)

    def pairs(self, name: str) -> list[prompt_sets.PairedPrompt]:
        """Sentences of a paired set, see `prompt_sets.load_pairs`."""
        return prompt_sets.load_pairs(self.model.world, name)

    def signs(self, bucket: str, kind: str) -> list[prompt_sets.SignPrompt]:
        """Sentences about signs, see `prompt_sets.load_signs`."""
        return prompt_sets.load_signs(self.model.world, bucket, kind)

    @cached_property
    def quality(self) -> dict:
        """The measured quality of the model and its judge (`quality.json`); empty if unmeasured."""
        file = self._own_file("quality.json")
        return json.loads(file.read_text(encoding="utf-8")) if file else {}

    @cached_property
    def bounds(self) -> dict[str, Bound]:
        """The bound that decides each claim here: the profile's own, or that of the toybox."""
        found = {
            claim.id: claim.bounds.get(self.model.name, claim.bounds.get(DEFAULT))
            for claim in load_claims().values()
        }
        return {id: bound for id, bound in found.items() if bound is not None}

    @property
    def _known(self) -> bool:
        return self.model.world == profiles.KNOWN_WORLD

    def _own_file(self, name: str) -> Path | None:
        """A file next to a shipped model's weights; None if there is none."""
        file = None if self.model.on_hub else Path(self.model.repo) / name
        return file if file and file.exists() else None
