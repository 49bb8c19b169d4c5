"""Training one word: the recipe's gradient, nothing else touched, concepts independent."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0

from t2i_lens.inversion import training
from t2i_lens.inversion.embeddings import COLUMNS, attach
from t2i_lens.inversion.training_data import Draws, InversionConfig, encoded_pictures, template_rows
from t2i_lens.models.tokens import add_placeholder, encode

CONFIG = InversionConfig(steps=6, learning_rate=5e-3, batch_size=2, record_every=2)
# Other batch sizes, another attention kernel and another order of sums round differently:
# after 20 to 50 steps of 5e-3 rows were seen to differ by at most 9e-8. Fifty times that.
ROW_TOLERANCE = 5e-6


def weights(pipe):
    models = {"text": pipe.text_encoder, "unet": pipe.unet, "vae": pipe.vae}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, model in models.items()
        for name, tensor in model.state_dict().items()
    }


def plain_training(pipe, concept, config):
    """The example script's loop: the whole table is a parameter, other rows are restored."""
    ids = list(add_placeholder(pipe, concept.placeholder_token, config.num_vectors))
    table = pipe.text_encoder.get_input_embeddings().weight
    initializer = pipe.tokenizer(concept.initializer_token, add_special_tokens=False).input_ids
    with torch.no_grad():
        table[ids] = table[initializer]
    original = table.detach().clone()
    other = torch.ones(len(table), dtype=torch.bool)
    other[ids] = False
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    optimizer = torch.optim.AdamW([table], lr=config.learning_rate, weight_decay=1e-2, eps=1e-8)
    draws, gradients = Draws(pipe, concept, config, 1000), []
    for _ in range(config.steps):
        latents, noise, timesteps, chosen = next(draws)
        prompts = [config.templates[i].format(concept.placeholder_token) for i in chosen]
        fed = torch.tensor([encode(pipe, prompt).ids for prompt in prompts])
        states = pipe.text_encoder(fed).last_hidden_state
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents, noise, timesteps)
        predicted = pipe.unet(noisy, timesteps, states).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(predicted, target).backward()
        gradients.append(table.grad[ids].clone())
        optimizer.step()
        with torch.no_grad():
            table[other] = original[other]
    return table[ids].detach(), gradients


@pytest.mark.parametrize(
    ("num_vectors", "autoencoder", "prediction_type"),
    [(1, "tiny", "epsilon"), (3, "tiny", "epsilon"), (1, "kl", "v_prediction")],
)
def test_training_gives_what_the_full_embedding_table_gives(
    make_pipe, make_concept, num_vectors, autoencoder, prediction_type
):
    config = InversionConfig(
        steps=4, learning_rate=5e-3, batch_size=2, num_vectors=num_vectors, record_every=1
    )
    concept = make_concept("pinata")
    pipe = make_pipe(autoencoder, prediction_type)
    (fast,) = training.train(pipe, [concept], config, progress=False)
    plain, _ = plain_training(pipe, concept, config)
    assert (fast.embedding - plain).abs().max() < ROW_TOLERANCE
    moved = (fast.embedding - torch.tensor(fast.trajectory.vector[0])).abs().max()
    assert moved > 100 * ROW_TOLERANCE


def test_the_gradient_is_that_of_the_full_embedding_table(make_pipe, make_concept):
    config = InversionConfig(steps=1, learning_rate=5e-3, batch_size=4, num_vectors=2)
    concept, pipe = make_concept("pinata"), make_pipe()
    rows = training.initializer_rows(pipe, concept, 2)[None].clone().requires_grad_()
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    batch = next(Draws(pipe, concept, config, 1000))
    templates = template_rows(pipe, config.templates, config.num_vectors)
    training._losses(pipe, scheduler, config, rows, templates, batch).sum().backward()
    _, (plain,) = plain_training(pipe, concept, config)
    assert plain.norm() > 0
    assert (rows.grad[0] - plain).norm() < 1e-5 * plain.norm()


def test_several_concepts_train_as_each_does_alone(shared_pipe, make_concept):
    concepts = [make_concept(name, initializer=word) for name, word in
                [("pinata", "toy"), ("boat", "chair"), ("owl", "cat")]]  # fmt: skip
    together = training.train(shared_pipe, concepts, CONFIG, progress=False)
    for concept, beside in zip(concepts, together, strict=True):
        (alone,) = training.train(shared_pipe, [concept], CONFIG, progress=False)
        assert (alone.embedding - beside.embedding).abs().max() < ROW_TOLERANCE
        np.testing.assert_allclose(
            alone.trajectory.loss, beside.trajectory.loss, rtol=1e-4, equal_nan=True
        )
    assert (together[0].embedding - together[1].embedding).abs().max() > 100 * ROW_TOLERANCE


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_pipeline_is_left_as_it_was(make_pipe, make_concept, bfloat16):
    pipe = make_pipe()
    before, tokens = weights(pipe), len(pipe.tokenizer)
    config = replace(CONFIG, bfloat16=bfloat16)
    training.train(pipe, [make_concept("pinata")], config, progress=False)
    after = weights(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(pipe.tokenizer) == tokens
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())
    assert all(parameter.grad is None for parameter in pipe.text_encoder.parameters())
    assert all(type(p) is AttnProcessor2_0 for p in pipe.unet.attn_processors.values())
    assert pipe.text_encoder.config._attn_implementation == "sdpa"


def test_the_pipeline_is_left_as_it_was_after_an_error(make_pipe, make_concept):
    pipe = make_pipe()

    def fail(module, inputs):
        raise RuntimeError("stop here")

    hook = pipe.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        training.train(pipe, [make_concept("pinata")], replace(CONFIG, bfloat16=True), False)
    hook.remove()
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())
    assert all(type(p) is AttnProcessor2_0 for p in pipe.unet.attn_processors.values())
    assert pipe.text_encoder.config._attn_implementation == "sdpa"


def test_after_training_and_attaching_all_other_rows_are_bit_identical(pipe, make_concept):
    before = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    (trained,) = training.train(pipe, [make_concept("pinata")], CONFIG, progress=False)
    ids = attach(pipe, trained)
    after = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert torch.equal(after[list(ids)], trained.embedding)
    assert not torch.equal(trained.embedding[0], before[pipe.tokenizer.encode("toy")[1]])


def test_training_lowers_the_loss_on_its_own_pictures(make_pipe, make_concept):
    pipe, concept = make_pipe(), make_concept("pinata")
    config = InversionConfig(steps=60, learning_rate=2e-2, batch_size=4, record_every=60)
    (trained,) = training.train(pipe, [concept], config, progress=False)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    batch = next(Draws(pipe, concept, InversionConfig(1, 1.0, 64, seed=9), 1000))
    wide = InversionConfig(1, 1.0, 64)
    templates = template_rows(pipe, wide.templates, 1)
    with torch.no_grad():
        loss = [
            float(training._losses(pipe, scheduler, wide, rows[None], templates, batch))
            for rows in (torch.tensor(trained.trajectory.vector[0])[None], trained.embedding)
        ]
    assert loss[1] < loss[0]


def test_the_trajectory_goes_from_the_initializer_to_the_result(shared_pipe, make_concept):
    config = InversionConfig(
        steps=5, learning_rate=5e-3, batch_size=1, num_vectors=2, record_every=2
    )
    (trained,) = training.train(shared_pipe, [make_concept("pinata")], config, progress=False)
    table = shared_pipe.text_encoder.get_input_embeddings().weight.detach()
    toy = table[shared_pipe.tokenizer.encode("toy")[1]]
    trajectory = trained.trajectory
    assert tuple(trajectory.columns) == COLUMNS
    assert trajectory.step.tolist() == [0, 0, 2, 2, 4, 4, 5, 5]
    assert trajectory["index"].tolist() == [0, 1] * 4
    first, last = trajectory[trajectory.step == 0], trajectory[trajectory.step == 5]
    np.testing.assert_array_equal(np.stack(first.vector), torch.stack([toy, toy]))
    np.testing.assert_array_equal(np.stack(last.vector), trained.embedding)
    norms = np.linalg.norm(np.stack(trajectory.vector), axis=1)
    np.testing.assert_allclose(trajectory.norm, norms, rtol=1e-6)
    np.testing.assert_allclose(first.cosine_to_initial, 1, atol=1e-6)
    np.testing.assert_allclose(last.cosine_to_final, 1, atol=1e-6)
    assert (last.cosine_to_initial < 1 - 1e-5).all()
    assert first.loss.isna().all() and first.gradient.isna().all()
    assert trajectory[trajectory.step > 0].loss.gt(0).all()
    assert trajectory[trajectory.step > 0].gradient.gt(0).all()


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(shared_pipe, make_concept):
    concept = make_concept("pinata")
    runs = [
        training.train(shared_pipe, [concept], InversionConfig(3, 5e-3, 2, seed=s), False)[0]
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0].embedding, runs[1].embedding)
    assert not torch.equal(runs[0].embedding, runs[2].embedding)


def test_template_rows_are_what_an_attached_placeholder_is_fed(pipe):
    config = InversionConfig(1, 1e-3, 1, num_vectors=3)
    ids, starts = template_rows(pipe, config.templates, config.num_vectors)
    placeholder = torch.tensor(add_placeholder(pipe, "<cat-toy>", 3))
    assert len(config.templates) == len(set(config.templates)) == 27
    for template, row, start in zip(config.templates, ids, starts, strict=True):
        row = row.clone()
        row[start : start + 3] = placeholder
        fed = encode(pipe, template.format("<cat-toy>"))
        assert tuple(row.tolist()) == fed.ids
        assert fed.positions("<cat-toy>")[0] == start


def test_each_picture_is_shown_equally_often(shared_pipe, make_concept):
    concept = make_concept("pinata", pictures=3)
    config = InversionConfig(1, 1e-3, batch_size=300, flip_probability=0.0)
    latents, _, timesteps, chosen = next(Draws(shared_pipe, concept, config, 1000))
    mean, spread = encoded_pictures(shared_pipe, concept)
    assert spread is None
    shown = [int((latents == picture).flatten(1).all(1).sum()) for picture in mean[0]]
    assert shown == [100, 100, 100]
    assert 0 <= timesteps.min() < 50
    assert 950 < timesteps.max() < 1000
    assert set(chosen.tolist()) == set(range(27))


def test_pictures_are_encoded_at_the_models_scale_and_mirrored(shared_pipe, make_concept):
    concept = make_concept("pinata", pictures=2)
    mean, _ = encoded_pictures(shared_pipe, concept)
    pixels = torch.from_numpy(concept.images[1].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        direct = shared_pipe.vae.encode(pixels).latents * shared_pipe.vae.config.scaling_factor
        mirrored = shared_pipe.vae.encode(pixels.flip(-1)).latents * 0.7
    torch.testing.assert_close(mean[0, 1:], direct)
    torch.testing.assert_close(mean[1, 1:], mirrored)


def test_a_posterior_is_sampled_anew_at_every_step(make_pipe, make_concept):
    pipe, concept = make_pipe("kl"), make_concept("pinata", pictures=1)
    config = InversionConfig(1, 1e-3, batch_size=400, flip_probability=0.0)
    latents = next(Draws(pipe, concept, config, 1000))[0]
    mean, spread = encoded_pictures(pipe, concept)
    assert latents.std(0).mean() == pytest.approx(float(spread[0, 0].mean()), rel=0.05)
    assert (latents.mean(0) - mean[0, 0]).abs().mean() < 0.1 * spread[0, 0].mean()


def test_pictures_of_another_size_are_resized(shared_pipe, make_concept):
    concept = make_concept("pinata")
    larger = np.repeat(np.repeat(concept.images, 2, axis=1), 2, axis=2)
    object.__setattr__(concept, "images", larger)
    assert encoded_pictures(shared_pipe, concept)[0].shape == (2, 3, 4, 8, 8)


def test_bfloat16_stays_close_and_keeps_rows_in_float32(shared_pipe, make_concept):
    concept = make_concept("pinata")
    exact, rough = (
        training.train(shared_pipe, [concept], InversionConfig(4, 5e-3, 4, bfloat16=b), False)[0]
        for b in (False, True)
    )
    assert rough.embedding.dtype == torch.float32
    assert not torch.equal(exact.embedding, rough.embedding)
    assert torch.cosine_similarity(exact.embedding, rough.embedding).item() > 0.95


def test_an_initializer_of_several_tokens_is_refused(shared_pipe, make_concept):
    concept = make_concept("pinata", initializer="xylophone")
    with pytest.raises(ValueError, match="initializer 'xylophone' is .* tokens"):
        training.train(shared_pipe, [concept], CONFIG, progress=False)


def test_no_or_repeated_concepts_are_refused(shared_pipe, make_concept):
    for concepts in ([], [make_concept("pinata"), make_concept("pinata", "<other>")]):
        with pytest.raises(ValueError, match="at least one concept"):
            training.train(shared_pipe, concepts, CONFIG, progress=False)


def test_more_vectors_than_fit_are_refused(shared_pipe, make_concept):
    config = InversionConfig(1, 1e-3, 1, num_vectors=80)
    with pytest.raises(ValueError, match="exceeds 77"):
        training.train(shared_pipe, [make_concept("pinata")], config, progress=False)


def test_the_seconds_of_a_step_do_not_hold_what_comes_before_it(shared_pipe, make_concept):
    concept, config = make_concept("pinata", pictures=400), InversionConfig(50, 1e-3, 1)
    began = time.perf_counter()
    encoded_pictures(shared_pipe, concept)
    before = time.perf_counter() - began
    step = training.seconds_per_step(shared_pipe, [concept], [config])
    assert 0 < step < before / 2


def test_penalties_and_fixed_norms_act_on_their_own_run_alone(shared_pipe, make_concept):
    concept = make_concept("pinata")
    settings = {"plain": {}, "l1": {"l1_penalty": 0.1}, "l2": {"l2_penalty": 0.1},
                "fixed": {"fixed_norm": True}}  # fmt: skip
    configs = [replace(CONFIG, steps=40, learning_rate=1e-2, **some) for some in settings.values()]
    found = training.train(shared_pipe, [concept] * 4, configs, progress=False)
    by = dict(zip(settings, found, strict=True))
    norms = {name: each.trajectory.norm.to_numpy() for name, each in by.items()}
    assert norms["l1"][-1] < norms["l2"][-1] < norms["plain"][-1]
    assert norms["plain"][-1] > 1.5 * norms["plain"][0]
    # Divided and multiplied by its norm at each step, in float32.
    np.testing.assert_allclose(norms["fixed"], norms["fixed"][0], rtol=1e-5)
    assert by["fixed"].trajectory.cosine_to_initial.iloc[-1] < 0.9
    (alone,) = training.train(shared_pipe, [concept], configs[0], progress=False)
    assert (alone.embedding - by["plain"].embedding).abs().max() < 10 * ROW_TOLERANCE


def test_the_penalties_gradient_is_that_of_their_formula(shared_pipe, make_concept):
    concept, one = make_concept("pinata"), replace(CONFIG, steps=1, optimizer="sgd",
                                                   learning_rate=1.0, weight_decay=0.0)  # fmt: skip
    configs = [one, replace(one, l1_penalty=0.5), replace(one, l2_penalty=0.25)]
    plain, l1, l2 = training.train(shared_pipe, [concept] * 3, configs, progress=False)
    start = torch.tensor(plain.trajectory.vector[0])
    torch.testing.assert_close(plain.embedding - l1.embedding, 0.5 * start.sign()[None])
    torch.testing.assert_close(plain.embedding - l2.embedding, 0.5 * start[None])


def test_sgd_moves_a_row_by_its_gradient_and_the_gradients_norm_is_recorded(
    shared_pipe, make_concept
):
    config = InversionConfig(3, 0.5, 2, record_every=1, optimizer="sgd", weight_decay=0.0)
    (trained,) = training.train(shared_pipe, [make_concept("pinata")], config, progress=False)
    moved = np.linalg.norm(np.diff(np.stack(trained.trajectory.vector), axis=0), axis=1)
    np.testing.assert_allclose(moved, 0.5 * trained.trajectory.gradient[1:], rtol=1e-3)


def test_the_recorded_gradient_is_a_root_mean_square_since_the_last_record(
    shared_pipe, make_concept
):
    concept, config = make_concept("pinata"), InversionConfig(4, 5e-3, 2, record_every=1)
    (every,) = training.train(shared_pipe, [concept], config, progress=False)
    (coarse,) = training.train(shared_pipe, [concept], replace(config, record_every=4), False)
    expected = np.sqrt(np.square(every.trajectory.gradient[1:]).mean())
    assert coarse.trajectory.gradient.iloc[-1] == pytest.approx(expected, rel=1e-5)


def test_runs_of_different_optimisers_do_not_share_a_batch(shared_pipe, make_concept):
    configs = [CONFIG, replace(CONFIG, optimizer="sgd")]
    assert training.batch_key(configs[0]) != training.batch_key(configs[1])
    with pytest.raises(ValueError, match="must agree in .*optimizer"):
        training.train(shared_pipe, [make_concept("pinata")] * 2, configs, progress=False)
