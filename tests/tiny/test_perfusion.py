"""Key-locked edits in pipelines of the real classes: training, drawing, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import StableDiffusionPAGPipeline
from families import tiny_sdxl

from t2i_lens.inversion.training import initializer_rows
from t2i_lens.inversion.training_data import InversionConfig
from t2i_lens.methods import lora
from t2i_lens.methods.perfusion import concept_edits, equations, training
from t2i_lens.methods.teaching import CustomDiffusion, LayerTokens, LimitedInversion, Limits, teach
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import generate
from t2i_lens.probes.unet_hooks import cross_attention_layers

CONFIG = InversionConfig(
    steps=4, learning_rate=6e-3, batch_size=2, templates=("a photo of a {}", "the {}")
)
DRAWN = {"num_inference_steps": 2}


def random_edit(pipe, width, towers):
    torch.manual_seed(5)
    layers = cross_attention_layers(pipe.unet)
    outputs = {path: torch.randn(layer.to_k.out_features) for path, layer in layers.items()}
    rows = tuple(torch.randn(1, tower) for tower in towers)
    target = torch.randn(width)
    return concept_edits.ConceptEdit("<pinata>", "toy", rows, target, target, outputs, outputs)


@pytest.fixture(params=["sd", "sdxl"])
def model(request, make_pipe):
    pipe = make_pipe("kl") if request.param == "sd" else tiny_sdxl(make_pipe)
    width, towers = (32, (32,)) if request.param == "sd" else (80, (32, 48))
    return pipe, random_edit(pipe, width, towers)


def test_without_a_concept_pictures_are_the_same_to_the_last_bit(model):
    pipe, edit = model
    plain = generate(pipe, ["a toy"], [0], **DRAWN)
    with concept_edits.applied(pipe, []):
        assert np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)
    nothing = replace(edit, keys={}, values={})
    with concept_edits.applied(pipe, [nothing]):
        assert np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)
    with concept_edits.applied(pipe, [edit]):
        assert not np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)
    assert np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)


def test_a_file_comes_back_as_it_was_saved(model, tmp_path):
    pipe, edit = model
    file = concept_edits.save(edit, tmp_path / "pinata.safetensors")
    again = concept_edits.load(file, pipe)
    assert again.keys.keys() == edit.keys.keys() and again.superclass == "toy"
    assert all(torch.equal(again.values[n], edit.values[n]) for n in edit.values)
    assert all(map(torch.equal, again.embedding, edit.embedding))


def test_an_edit_of_another_model_is_refused_in_one_line(make_pipe, tmp_path):
    one, two = make_pipe("kl"), tiny_sdxl(make_pipe)
    edit = random_edit(one, 32, (32,))
    with pytest.raises(ValueError, match="use the model that it was trained on") as raised:
        concept_edits.load(concept_edits.save(edit, tmp_path / "x.safetensors"), two)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="this model has"), concept_edits.applied(two, [edit]):
        pass


def test_a_file_that_is_no_edit_is_refused_in_one_line(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="is no key-locked edit"):
        concept_edits.load(file)


def test_the_edited_layer_computes_the_equation(make_pipe):
    pipe = make_pipe("kl")
    edit = random_edit(pipe, 32, (32,))
    path, layer = next(iter(cross_attention_layers(pipe.unet).items()))
    state = edit.target[None, None]
    with concept_edits.applied(pipe, [edit]):
        changed = layer.to_v(state)[0, 0]
    share = torch.sigmoid(torch.tensor((1 - edit.beta) / edit.tau))
    # float32: sums of 32 products of numbers of about ten.
    assert torch.allclose(changed, share * edit.values[path], atol=1e-4)


def test_an_edit_at_a_position_is_not_made_in_guidance_of_three_branches(make_pipe):
    pipe = make_pipe("kl")
    edit = replace(random_edit(pipe, 32, (32,)), positional=True)
    pag = StableDiffusionPAGPipeline(
        **pipe.components, pag_applied_layers=["mid"], requires_safety_checker=False
    )
    pag.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 1, "guidance_scale": 5.0, "pag_scale": 3.0}
    refused = pytest.raises(ValueError, match="only plain guidance|two halves")
    with refused, concept_edits.applied(pag, [edit], positions=[2]):
        pag(["a toy", "a toy"], output_type="latent", **call)


def test_a_concept_is_not_edited_in_an_offloaded_unet(make_pipe):
    pipe = make_pipe("kl")
    edit = random_edit(pipe, 32, (32,))
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    refused = pytest.raises(ValueError, match="the U-Net is offloaded: load the model whole")
    with refused, concept_edits.applied(pipe, [edit]):
        pass


@pytest.fixture
def taught(make_pipe, make_concept):
    pipe = make_pipe("kl")
    torch.manual_seed(2)
    inverse = equations.inverse_covariance(torch.randn(100, 32))
    lessons = [(make_concept("pinata"), CONFIG), (make_concept("owl", initializer="cat"), CONFIG)]
    return pipe, inverse, lessons


def test_training_moves_values_and_word_and_keeps_keys_at_the_class(taught):
    pipe, inverse, lessons = taught
    before = {n: p.clone() for n, p in pipe.unet.state_dict().items()}
    (edit, _), _ = training.train(pipe, lessons, inverse)
    start = training.class_state(pipe, *lessons[0])
    for path, layer in cross_attention_layers(pipe.unet).items():
        # The same product in a batch of another size.
        assert torch.allclose(edit.keys[path], layer.to_k.weight.detach() @ start, atol=1e-5)
        assert (edit.values[path] - layer.to_v.weight.detach() @ start).abs().max() > 0.01
    assert not torch.equal(edit.embedding[0], initializer_rows(pipe, lessons[0][0], 1))
    assert all(torch.equal(before[n], p) for n, p in pipe.unet.state_dict().items())


def test_concepts_of_a_batch_train_as_each_does_alone(taught):
    pipe, inverse, lessons = taught
    together, _ = training.train(pipe, lessons, inverse)
    (alone,), _ = training.train(pipe, lessons[1:], inverse)
    for path in alone.values:
        # Adam divides by a small gradient: rounding shows in the fourth digit of a step of 0.03.
        assert torch.allclose(together[1].values[path], alone.values[path], atol=2e-3)


def test_a_mask_of_nothing_teaches_nothing(taught):
    pipe, inverse, lessons = taught
    side = pipe.unet.config.sample_size
    blank = [np.zeros((len(c.images), side, side), np.float32) for c, _ in lessons]
    (edit, _), _ = training.train(pipe, lessons, inverse, masks=blank)
    assert torch.equal(edit.embedding[0], initializer_rows(pipe, lessons[0][0], 1))


def test_an_edit_at_the_position_leaves_the_other_tokens(taught):
    pipe, inverse, lessons = taught
    (edit, _), _ = training.train(pipe, lessons, inverse, training.EditConfig(form="position"))
    sentence = "a photo of a toy"
    places = encode(pipe, sentence).positions("toy")
    plain = generate(pipe, [sentence], [0], **DRAWN)
    with concept_edits.applied(pipe, [edit], positions=places):
        assert not np.array_equal(generate(pipe, [sentence], [0], **DRAWN), plain)
    with pytest.raises(ValueError, match="needs positions"), concept_edits.applied(pipe, [edit]):
        pass


@pytest.mark.parametrize("limits", [Limits(context=1.0), Limits(anchor=0.95)])
def test_a_limit_keeps_the_row_nearer_to_the_class_word(taught, limits):
    pipe, _, lessons = taught
    lessons = [(c, replace(config, steps=12)) for c, config in lessons]
    rows = [initializer_rows(pipe, c, 1) for c, _ in lessons]

    def moved(some):
        way, _ = teach(pipe, lessons, lambda: LimitedInversion(pipe, lessons, rows, some))
        return float((way.rows[0].detach() - rows[0]).norm())

    strong = Limits(context=limits.context * 1e4, anchor=0.99999 if limits.anchor else 0.0)
    assert moved(strong) < moved(Limits())


def test_each_layer_learns_a_row_of_its_own(taught):
    pipe, _, lessons = taught
    rows = [initializer_rows(pipe, c, 1) for c, _ in lessons]
    way, _ = teach(pipe, lessons, lambda: LayerTokens(pipe, lessons, rows))
    learned = way.rows[0].detach()
    assert len(learned) == len(cross_attention_layers(pipe.unet))
    assert not torch.equal(learned[0], learned[1])


def test_adapters_learn_and_leave_the_unet_as_it_was(make_pipe, make_concept):
    pipe, concept = make_pipe("kl"), make_concept("pinata")
    before = {n: p.clone() for n, p in pipe.unet.state_dict().items()}
    lessons = [(concept, CONFIG), (make_concept("prior"), CONFIG)]
    rows = [initializer_rows(pipe, c, 1) for c, _ in lessons]
    way, _ = teach(pipe, lessons, lambda: lora.Adapters(pipe, lessons, rows))
    learned = way.learned()
    assert any(part.abs().max() > 0 for name, part in learned.items() if "lora_B" in name)
    plain = generate(pipe, ["a toy"], [0], **DRAWN)
    with lora.adapted(pipe.unet, learned):
        assert not np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)
    assert np.array_equal(generate(pipe, ["a toy"], [0], **DRAWN), plain)
    after = pipe.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_custom_diffusion_learns_each_concepts_own_changes_of_weights(make_pipe, make_concept):
    pipe = make_pipe("kl")
    concepts = [make_concept(name) for name in ("pinata", "owl", "prior", "other prior")]
    lessons = [(c, CONFIG) for c in concepts]
    rows = [initializer_rows(pipe, c, 1) for c in concepts]
    way, _ = teach(pipe, lessons, lambda: CustomDiffusion(pipe, lessons, rows))
    change = next(iter(way.changes.values())).detach()
    assert len(change) == 2 and not torch.equal(change[0], change[1])
    assert torch.equal(way.rows[2], rows[2]) and not torch.equal(way.rows[0], rows[0])
