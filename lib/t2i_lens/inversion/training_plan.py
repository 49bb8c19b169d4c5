"""The plan of all textual inversions of the study, and the command that trains the missing ones.

A variant trains some concepts in one way. The chapters show the standard variant; every other
variant differs from it in one setting, so that the two can be compared.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from diffusers import StableDiffusionPipeline

from t2i_lens.base.files import seed_of
from t2i_lens.base.shapes import EmbeddingRows, Images
from t2i_lens.inversion.embedding_table import Vocabulary, variants_folder
from t2i_lens.inversion.embeddings import Concept, identity, load, save
from t2i_lens.inversion.starts import INITIALISATIONS, Initialisation, initial_rows
from t2i_lens.inversion.training import batch_key, description, seconds_per_step, train
from t2i_lens.inversion.training_data import STYLE_TEMPLATES, InversionConfig

STANDARD = "standard"
# The cat toy's settings in diffusers' documentation, with which most published tokens were trained.
PUBLISHED = InversionConfig(
    steps=3000, learning_rate=2e-3, batch_size=4, record_every=100, bfloat16=True
)
# The standard run of each profile.
RECIPES = {
    "toybox": InversionConfig(
        steps=600, learning_rate=5e-3, batch_size=2, record_every=25, bfloat16=True,
    ),
    **dict.fromkeys(("sd14", "sd15", "sd21"), PUBLISHED),
}  # fmt: skip
SEEDS = (0, 1)
LEARNING_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
WEIGHT_DECAYS = (0.0, 1e-2, 1e-1, 1.0)
FEW = 4  # objects, the hero among them, that what makes the norm grow is asked of
# Set from the size of the toybox's gradients in the first steps, a norm G of about a quarter, and
# not from what they draw: with a penalty Adam's law is to settle near the vocabulary's norm n, at
# l1 = lr·G·√π / (2√2·n) and l2 = √d·lr·G / (4n²), and SGD's steps are to be as long as Adam's, at
# a rate of lr·√d / G.
L1_PENALTY, L2_PENALTY, SGD_RATE = 1e-3, 1e-2, 0.25
# Runs in one batch, and at most these are lost by an interruption; of pictures of 512 pixels, one
# run alone fills a GPU.
TOGETHER = {"toybox": 12}

# Whether pictures of the concept among other things, with a caption each, are trained on as well
# as its own pictures with templates (half and half), or alone.
Contexts = Literal["none", "mixed", "only"]
Pictures = Literal["own", "noise"]


@dataclass(frozen=True)
class Variant:
    """One way of training.

    Attributes:
        name: Folder name of its results; `STANDARD` is the one that the chapters show.
        concepts: Names.
        config: A style or colour scheme is trained with `STYLE_TEMPLATES` in place of its
            templates.
        pictures: With "noise", pixels that know nothing of the concept are in its pictures' place.
    """

    name: str
    concepts: tuple[str, ...]
    config: InversionConfig
    initialisation: Initialisation = "class_word"
    contexts: Contexts = "none"
    pictures: Pictures = "own"


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """One concept of a variant, with the pictures, captions and templates that it trains on.

    Attributes:
        folder: Where `embeddings.save` puts it, in a folder of the concept's name.
    """

    variant: Variant
    concept: Concept
    config: InversionConfig
    folder: Path

    def provenance(self, fingerprint: str) -> dict:
        """Everything that this run depends on; it is repeated when this has changed."""
        return description(self.concept, self.config, fingerprint) | {
            "initialisation": self.variant.initialisation,
            "contexts": self.variant.contexts,
            "pictures": self.variant.pictures,
        }


def recipe(profile: str) -> InversionConfig:
    """The standard run's parameters.

    Raises:
        ValueError: the profile has none.
    """
    if profile not in RECIPES:
        raise ValueError(f"no recipe for profile {profile!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[profile]


def plan(standard: InversionConfig, concepts: Sequence[Concept]) -> list[Variant]:
    """The study's variants: all concepts with two seeds; the hero, or a few, in other ways.

    The other ways keep the standard seed, so they see the same noise and timesteps.
    """
    all_names = tuple(c.name for c in concepts)
    hero = tuple(c.name for c in concepts if c.hero)
    variants = [
        Variant(
            STANDARD if seed == standard.seed else f"seed_{seed}",
            all_names,
            replace(standard, seed=seed),
        )
        for seed in SEEDS
    ]
    if not hero:
        return variants
    few = few_names(concepts)
    one_template = replace(standard, templates=standard.templates[:1])
    # A run without a template must not be told to have 27.
    no_template = replace(standard, templates=())
    return [
        *variants,
        Variant("one_template", hero, one_template),
        Variant("contexts_mixed", hero, standard, contexts="mixed"),
        Variant("contexts_only", hero, no_template, contexts="only"),
        *(
            Variant(f"rate_{rate:g}", hero, replace(standard, learning_rate=rate))
            for rate in LEARNING_RATES
            if rate != standard.learning_rate
        ),
        *(
            Variant(f"start_{start}", hero, standard, initialisation=start)
            for start in INITIALISATIONS
            if start != "class_word"
        ),
        *(
            Variant(f"decay_{decay:g}", hero, replace(standard, weight_decay=decay))
            for decay in WEIGHT_DECAYS
            if decay != standard.weight_decay
        ),
        Variant("noise", few, standard, pictures="noise"),
        Variant("l1", few, replace(standard, l1_penalty=L1_PENALTY)),
        Variant("l2", few, replace(standard, l2_penalty=L2_PENALTY)),
        Variant("direction", few, replace(standard, fixed_norm=True)),
        Variant("sgd", few, replace(standard, optimizer="sgd", learning_rate=SGD_RATE,
                                    weight_decay=0.0)),
    ]  # fmt: skip


def few_names(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """The hero and the first held-out objects, `FEW` in all."""
    hero = [c.name for c in concepts if c.hero]
    held_out = [c for c in concepts if c.kind == "object" and not (c.hero or c.development)]
    return tuple([*hero, *(c.name for c in held_out)][:FEW])


def names(concepts: Sequence[Concept]) -> list[str]:
    """Class words of the objects, each once: the names whose mean a placeholder may start from."""
    return list(dict.fromkeys(c.initializer_token for c in concepts if c.kind == "object"))


def runs(
    variants: Sequence[Variant],
    concepts: Sequence[Concept],
    contexts: Callable[[str], tuple[Images, tuple[str, ...]]],
    folder: Path,
) -> list[TrainingRun]:
    """All runs of a plan, in its order.

    Args:
        contexts: Pictures and captions of a concept by its name; see `embeddings.load_contexts`.
        folder: Of the standard runs; the other variants' lies beside it.

    Raises:
        ValueError: a variant names a concept that is not there.
    """
    by_name = {c.name: c for c in concepts}
    planned = []
    for variant in variants:
        target = folder
        if variant.name != STANDARD:
            target = variants_folder(folder) / variant.name
        for name in variant.concepts:
            if name not in by_name:
                raise ValueError(f"no concept {name}; there are: {', '.join(by_name)}")
            concept, config = by_name[name], variant.config
            if concept.kind != "object":
                config = replace(config, templates=STYLE_TEMPLATES)
            if variant.contexts != "none":
                concept = in_contexts(concept, *contexts(name), mixed=variant.contexts == "mixed")
            if variant.pictures == "noise":
                concept = replace(concept, images=noise_pictures(concept))
            planned.append(TrainingRun(variant, concept, config, target))
    return planned


def noise_pictures(concept: Concept) -> Images:
    """As many pictures as the concept has, of its size, with every byte drawn at random."""
    drawn = np.random.default_rng(seed_of(concept.name)).integers(0, 256, concept.images.shape)
    return drawn.astype(np.uint8)


def in_contexts(
    concept: Concept, images: Images, captions: tuple[str, ...], mixed: bool
) -> Concept:
    """The concept with captioned pictures in place of its own, or as many of each."""
    if not mixed:
        return replace(concept, images=images, captions=captions)
    # Each picture is shown equally often, so its own are repeated.
    repeated = np.resize(concept.images, (len(images), *concept.images.shape[1:]))
    no_captions: tuple[None, ...] = (None,) * len(images)
    together = np.concatenate([repeated, images])
    return replace(concept, images=together, captions=(*no_captions, *captions))


def pending(planned: Sequence[TrainingRun], fingerprint: str) -> list[TrainingRun]:
    """Runs without a complete result from this model, these pictures and this config."""
    return [run for run in planned if not _done(run, fingerprint)]


def chunks(planned: Sequence[TrainingRun], together: int = 1) -> Iterator[list[TrainingRun]]:
    """Runs that share a batch, in the plan's order, about equally many in each."""
    by_key = sorted(planned, key=lambda run: batch_key(run.config))
    for _, group in groupby(by_key, key=lambda run: batch_key(run.config)):
        alike = list(group)
        count = -(-len(alike) // together)
        bounds = [len(alike) * i // count for i in range(count + 1)]
        yield from (alike[a:b] for a, b in zip(bounds, bounds[1:], strict=False))


def seconds(
    pipe: StableDiffusionPipeline, planned: Sequence[TrainingRun], together: int = 1
) -> float:
    """Estimated seconds of the runs, from the first steps of one of their batches."""
    total = 0.0
    per_run_step: dict[tuple, float] = {}
    for chunk in chunks(planned, together):
        key, config = batch_key(chunk[0].config), chunk[0].config
        if key not in per_run_step:
            step = seconds_per_step(pipe, [r.concept for r in chunk], [r.config for r in chunk])
            per_run_step[key] = step / len(chunk)
        total += per_run_step[key] * config.steps * len(chunk)
    return total


def carry_out(
    pipe: StableDiffusionPipeline,
    planned: Sequence[TrainingRun],
    fingerprint: str,
    vocabulary: Vocabulary,
    names: Sequence[str],
    tell: Callable[[str], None] = print,
    together: int = 1,
) -> None:
    """Trains the runs batch by batch and saves each when its batch is finished.

    Args:
        vocabulary: Of this model, for the random initialisations.
        names: Words for the initialisation that is a mean of names.
        tell: Gets a line after each batch.
        together: Runs in one batch at most.
    """
    began, done = time.perf_counter(), 0
    for chunk in chunks(planned, together):
        results = train(
            pipe,
            [run.concept for run in chunk],
            [run.config for run in chunk],
            fingerprint=fingerprint,
            initial=[_start(pipe, run, vocabulary, names) for run in chunk],
        )
        for run, result in zip(chunk, results, strict=True):
            depends_on = run.provenance(fingerprint)
            settings = ("initialisation", "contexts", "pictures")
            provenance = result.provenance | {k: depends_on[k] for k in settings}
            save(replace(result, provenance=provenance), run.folder)
        done += len(chunk)
        minutes = (time.perf_counter() - began) / done * (len(planned) - done) / 60
        tell(f"{done} of {len(planned)} runs, about {minutes:.0f} min left")


def _start(
    pipe: StableDiffusionPipeline, run: TrainingRun, vocabulary: Vocabulary, names: Sequence[str]
) -> EmbeddingRows:
    return initial_rows(
        pipe, run.concept, run.variant.initialisation, vocabulary, names, run.config.seed
    )


def _done(run: TrainingRun, fingerprint: str) -> bool:
    try:
        inversion = load(run.folder / run.concept.name)
    except (ValueError, OSError):  # missing, torn or damaged
        return False
    # What was saved before there was a choice was made with what is now the default.
    plain = {f.name: f.default for f in fields(InversionConfig) if f.default is not MISSING}
    provenance = {"pictures": "own"} | inversion.provenance
    provenance |= {"config": plain | inversion.config, "concept": identity(inversion.concept)}
    return all(provenance.get(key) == value for key, value in run.provenance(fingerprint).items())
