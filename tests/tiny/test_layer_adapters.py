"""Adapters of chosen layers: what learns, what stays, and what is left afterwards."""

import numpy as np
import pytest
import torch

from t2i_lens.methods.layer_adapters import Training, adapted, count, encoded
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers

SAMPLING = {"num_inference_steps": 3, "guidance_scale": 3.0}
CAPTIONS = ["a red cat", "a dog", "a blue chair"]
FEW = Training(steps=4, batch=2, rank=2)


def pictures():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))


def drawn(pipe):
    return generate(pipe, ["a red cat"], [0, 1], **SAMPLING)


def tuned(pipe, layers, training=FEW):
    with adapted(pipe, layers, encoded(pipe, pictures()), CAPTIONS, training) as losses:
        return drawn(pipe), losses


def test_fine_tuning_changes_the_picture_and_leaves_the_model_as_it_was(pipe):
    before, layers = drawn(pipe), list(cross_attention_layers(pipe.unet))
    weights = {name: part.clone() for name, part in pipe.unet.state_dict().items()}
    during, losses = tuned(pipe, layers[:1])
    assert (during != before).any() and losses.shape == (FEW.steps,)
    np.testing.assert_array_equal(drawn(pipe), before)
    after = pipe.unet.state_dict()
    assert set(after) == set(weights)
    assert all(torch.equal(after[name], part) for name, part in weights.items())
    assert all(part.requires_grad for part in pipe.unet.parameters())


def test_only_adapters_of_the_chosen_layers_learn(pipe):
    layer = list(cross_attention_layers(pipe.unet))[0]
    with adapted(pipe, [layer], encoded(pipe, pictures()), CAPTIONS, FEW):
        learning = {n: p.numel() for n, p in pipe.unet.named_parameters() if p.requires_grad}
    assert learning and all(name.startswith(layer) and "lora" in name for name in learning)
    assert sum(learning.values()) == count(pipe, [layer], FEW.rank)


def test_no_layers_train_nothing(pipe):
    during, losses = tuned(pipe, [])
    np.testing.assert_array_equal(during, drawn(pipe))
    assert len(losses) == 0


def test_a_seed_means_the_same_fine_tuning(pipe):
    layers = list(cross_attention_layers(pipe.unet))
    (one, first), (other, second) = (tuned(pipe, layers) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    torch.testing.assert_close(first, second)


def test_the_loss_falls_on_few_pictures(pipe):
    layers = list(cross_attention_layers(pipe.unet))
    _, losses = tuned(pipe, layers, Training(steps=120, batch=3, rank=4, rate=1e-2))
    # random weights predict little; an untrained adapter would leave both means alike
    assert losses[-20:].mean() < 0.98 * losses[:20].mean()


def test_other_layers_and_missing_captions_are_refused(pipe):
    latents, (layer, *_) = encoded(pipe, pictures()), cross_attention_layers(pipe.unet)
    for layers, captions in ((["mid"], CAPTIONS), ([layer], CAPTIONS[:1])):
        with (
            pytest.raises(ValueError, match="mid|1 captions for 3"),
            adapted(pipe, layers, latents, captions, FEW),
        ):
            pass
    assert not hasattr(pipe.unet, "peft_config") or not pipe.unet.peft_config
