"""Trainings that test the law: their rows, their paths, and the comparison at equal likeness."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from t2i_lens.experiments import law_runs
from t2i_lens.inversion import row_steps
from t2i_lens.inversion.embeddings import Concept, Inversion
from t2i_lens.inversion.training_data import InversionConfig

CONFIG = InversionConfig(steps=200, learning_rate=1e-2, batch_size=1, weight_decay=0.5)
WIDTH = 64


def trained(config, seed=0, gradient=None):
    """A row after steps along random or given gradients, and its start."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(1, WIDTH, generator=generator) / WIDTH**0.5
    row = torch.nn.Parameter(start.clone())
    optimizer = row_steps.optimizer_for([row], [config])
    for _ in range(config.steps):
        drawn = torch.randn(1, WIDTH, generator=generator)
        row.grad = drawn if gradient is None else gradient.clone()
        row_steps.take(optimizer, [row], start[None], [config])
    return row.detach(), start


def test_a_relative_row_is_a_plain_row_from_zero_beside_its_start():
    relative, start = trained(replace(CONFIG, relative=True))
    zero = torch.nn.Parameter(torch.zeros(1, WIDTH))
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, WIDTH, generator=generator)
    optimizer = row_steps.optimizer_for([zero], [CONFIG])
    for _ in range(CONFIG.steps):
        zero.grad = torch.randn(1, WIDTH, generator=generator)
        optimizer.step()
    # Sums of 200 float32 steps.
    torch.testing.assert_close(relative - start, zero.detach(), rtol=0, atol=1e-5)
    plain, _ = trained(CONFIG)
    assert (plain - relative).norm() > 0.1


def test_momentum_makes_lasting_steps_longer_by_one_over_one_minus_momentum():
    push = torch.ones(1, WIDTH)
    sgd = replace(CONFIG, optimizer="sgd", weight_decay=0.0)
    ways = []
    for config in (sgd, replace(sgd, momentum=0.9, learning_rate=1e-3)):
        row, start = trained(config, gradient=push)
        ways.append((row - start).norm())
    # The first steps of momentum are shorter: 9 of 200 are missing in all.
    assert ways[1] / ways[0] == pytest.approx(191 / 200, abs=0.01)


def test_half_rows_are_rounded_after_every_step_and_others_are_not():
    half, _ = trained(replace(CONFIG, half_rows=True))
    plain, _ = trained(CONFIG)
    assert torch.equal(half, half.half().float()) and not torch.equal(plain, plain.half().float())


def inversion(vectors, **config):
    vectors = np.asarray(vectors, dtype=np.float32)
    settings = vars(replace(CONFIG, **config)) if config else vars(CONFIG)
    path = {
        "step": np.arange(len(vectors)) * 10, "index": 0, "vector": list(vectors),
        "norm": np.linalg.norm(vectors, axis=1), "gradient": 1.0,
    }  # fmt: skip
    concept = Concept("toy", "<toy>", "toy", "toy", np.zeros((0, 1, 1, 3), dtype=np.uint8))
    return Inversion(concept, torch.from_numpy(vectors[-1:]), pd.DataFrame(path), dict(settings))


def test_the_path_of_a_relative_row_is_that_of_its_difference():
    vectors = np.eye(3)
    found = law_runs.paths({("relative", "toy"): inversion(vectors, relative=True)})
    np.testing.assert_allclose(found["norm"], [0, 2**0.5, 2**0.5])
    assert found["expected"].iloc[0] == 0 and (found["expected"].iloc[1:] > 0).all()


def test_the_law_of_momentum_takes_the_longer_rate():
    token = inversion(
        np.eye(3), optimizer="sgd", momentum=0.9, weight_decay=0.0, learning_rate=1e-3
    )
    found = law_runs.paths({("momentum", "toy"): token})
    assert found["expected"].iloc[-1] ** 2 == pytest.approx(1 + 20 * 1e-2**2)
    over = law_runs.end_over_law({("momentum", "toy"): token}, "momentum")
    assert over[0] == pytest.approx(1 / (1 + 20 * 1e-3**2) ** 0.5)


def test_growth_exponents_are_two_on_the_law():
    rows = [
        {"variant": f"rate_{rate:g}", "concept": name, "step": step, "norm": norm}
        for rate in law_runs.RATES
        for name in "ab"
        for step, norm in ((0, 0.5), (300, (0.25 + 300 * 128 * rate**2) ** 0.5))
    ]
    np.testing.assert_allclose(law_runs.growth_exponent(pd.DataFrame(rows)), 2.0)


@pytest.mark.parametrize(("kind", "expected"), [("drift", 2.0), ("walk", 1.0)])
def test_the_variogram_tells_a_drift_from_a_walk(kind, expected):
    steps = np.random.default_rng(0).normal(size=(200, 128))
    vectors = np.cumsum(steps if kind == "walk" else np.ones_like(steps), axis=0)
    # 200 steps of 128 coordinates: other seeds gave 0.97 to 1.03.
    assert law_runs.variogram_exponent(vectors) == pytest.approx(expected, abs=0.06)


def test_random_signs_take_the_drift_and_keep_the_steps():
    drift = np.cumsum(np.ones((201, 8)), axis=0)
    shuffled = law_runs.scrambled(drift, seed=0)
    np.testing.assert_allclose(np.abs(np.diff(shuffled, axis=0)), 1.0)
    assert law_runs.variogram_exponent(shuffled) < 1.4


def test_at_equal_likeness_a_token_on_the_path_keeps_nothing():
    alike, lost = np.array([0.2, 0.4, 0.6, 0.5, 0.5]), np.array([0.0, 1.0, 2.0, 1.5, 0.5])
    path = [0, 1, 2]
    assert law_runs.saved_at_equal_likeness(lost, alike, path, 3) == pytest.approx(0)
    assert law_runs.saved_at_equal_likeness(lost, alike, path, 4) == pytest.approx(1)
    # Beyond the path's end its end counts, so being less alike is no saving.
    assert (
        law_runs.saved_at_equal_likeness(lost, np.array([0.2, 0.4, 0.6, 0.1, 0.9]), path, 3) == -1.5
    )


def test_pictures_that_differ_from_the_table_are_an_error():
    keys = {"concept": ["a"], "arm": ["x"], "prompt": ["p"], "seed": [0]}
    kept = pd.DataFrame(keys | {"doubt": [0.2], "likeness": [0.5]})
    assert law_runs.compare(kept, kept) == {"doubt": 0.0, "likeness": 0.0}
    with pytest.raises(ValueError, match="likeness differs by 0.1"):
        law_runs.compare(kept.assign(likeness=0.6), kept)
    with pytest.raises(ValueError, match="1 of 1 pictures are not in the table"):
        law_runs.compare(kept.assign(seed=1), kept)


def test_the_plan_tests_what_the_law_speaks_of():
    names = ["hero", *"abcd"]
    none = np.zeros((1, 1, 1, 3), dtype=np.uint8)
    concepts = [Concept(n, f"<{n}>", n, n, none, hero=n == "hero") for n in names]
    plan = {v.name: v for v in law_runs.variants(CONFIG, concepts)}
    assert {plan[f"decay_{wd}"].config.weight_decay for wd in ("0", "0.01", "0.1", "1")} == {
        0.0, 0.01, 0.1, 1.0}  # fmt: skip
    assert len(plan["decay_0"].concepts) == law_runs.LONGEST and len(plan["sgd"].concepts) == 4
    assert plan["momentum"].config.learning_rate == pytest.approx(
        0.1 * plan["sgd"].config.learning_rate
    )
    work = sum(v.config.steps * len(v.concepts) for v in plan.values())
    assert work < 45_000  # steps of one picture; a core takes 14 to 25 ms for one
