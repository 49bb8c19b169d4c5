"""Word pairs measured in a tiny pipeline: against the parts they are made of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from t2i_lens.experiments import binding, key_predictions, map_similarity
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.experiments.word_pairs import word_pairs
from t2i_lens.probes.cross_attention import Keep, record
from t2i_lens.probes.heat_maps import token_shares
from t2i_lens.probes.sampling import generate, text_states
from t2i_lens.probes.text_attention import read_prompts, tsam_matrix, tsam_matrix_as_released
from t2i_lens.probes.unet_hooks import cross_attention_layers

PROMPTS = [
    {"text": "a red cat and a blue chair",
     "bound": [["red", "cat"], ["blue", "chair"]],
     "unbound": [["red", "chair"], ["blue", "cat"], ["cat", "chair"], ["red", "blue"]]},
    {"text": "a dog and a frog", "bound": [], "unbound": [["dog", "frog"]]},
]  # fmt: skip
SAMPLING = {"num_inference_steps": 2, "guidance_scale": 3.0}
# The same sums in batches of another size, in float32.
BATCH = {"rtol": 1e-4, "atol": 1e-5}


def hook_count(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_pairs_know_their_kind_and_stand_where_the_ids_are(shared_pipe):
    table = word_pairs(shared_pipe, PROMPTS)
    assert table["kind"].tolist() == [
        "bound", "bound", "crossed", "crossed", "nouns", "attributes", "nouns",
    ]  # fmt: skip
    assert table[["key", "query"]].iloc[:4].values.tolist() == [[2, 3], [6, 7], [2, 7], [3, 6]]
    twice = [{"text": "a cat and a cat", "bound": [], "unbound": [["cat", "cat"]]}]
    with pytest.raises(ValueError, match="more than once"):
        word_pairs(shared_pipe, twice)


def test_a_word_of_several_pieces_stands_at_its_last(shared_pipe):
    prompt = {"text": "a zebra and a cat", "bound": [], "unbound": [["zebra", "cat"]]}
    (pair,) = word_pairs(shared_pipe, [prompt]).to_dict("records")
    assert (pair["key"], pair["query"]) == (6, 9)


def test_pairs_are_the_entries_of_t_and_of_the_embeddings(shared_pipe):
    pairs = binding.read_pairs(shared_pipe, PROMPTS, batch_size=1)
    reading = read_prompts(shared_pipe, [p["text"] for p in PROMPTS])
    for name, make in {"paper": tsam_matrix, "released": tsam_matrix_as_released}.items():
        matrix = make(reading.patterns[0], reading.rows[0].eos)
        # chair looks at red: positions 7 and 2, BOS dropped.
        assert pairs[name][2] == pytest.approx(matrix[6, 1].item(), rel=1e-4)
    states = text_states(shared_pipe, [PROMPTS[1]["text"]])[0]
    expected = torch.cosine_similarity(states[2], states[5], dim=0).item()
    assert pairs["cosine"][-1] == pytest.approx(expected, abs=1e-5)
    every = np.ones(pairs["to_key"].shape[1:], dtype=bool)
    np.testing.assert_allclose(binding.of_heads(pairs, every), pairs["paper"], rtol=1e-4)


def test_matrices_of_a_sentence_have_its_words(shared_pipe):
    found = binding.matrices(shared_pipe, PROMPTS[1]["text"])
    assert found["pieces"].tolist() == ["a", "dog", "and", "a", "frog"]
    np.testing.assert_allclose(found["released"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found["cosine"].diagonal(), 1, rtol=1e-5)


def test_an_untrained_encoder_is_another_one_and_the_first_is_left_alone(shared_pipe):
    before = shared_pipe.text_encoder.get_input_embeddings().weight.clone()
    first = binding.read_pairs(shared_pipe, PROMPTS)
    other = binding.read_untrained_pairs(shared_pipe, PROMPTS, seed=5)
    assert not np.allclose(first["paper"], other["paper"], atol=1e-6)
    assert torch.equal(before, shared_pipe.text_encoder.get_input_embeddings().weight)


def test_head_outputs_are_those_of_the_encoder(shared_pipe):
    reading = read_prompts(shared_pipe, ["a red cat"])
    seen = []
    attention = shared_pipe.text_encoder.encoder.layers[1].self_attn
    handle = attention.out_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        read_prompts(shared_pipe, ["a red cat"])
    finally:
        handle.remove()
    ours = (reading.patterns[:, 1] @ reading.values[:, 1]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, seen[0])


def test_sink_outputs_have_both_sides_for_every_two_tokens(shared_pipe):
    found = binding.sink_outputs(shared_pipe, [p["text"] for p in PROMPTS])
    assert found["eps"].shape == found["unlike"].shape == (7 * 6 // 2 + 5 * 4 // 2, 2, 4)
    assert (found["eps"] > 0).all() and (found["unlike"] > -1e-5).all()
    assert np.bincount(found["prompt"]).tolist() == [21, 10]
    pattern = read_prompts(shared_pipe, [PROMPTS[0]["text"]]).patterns[0, 1, 2]
    ratio = (1 - pattern[1:3, 0]) / pattern[1:3, 0]
    assert found["eps"][0, 1, 2] == pytest.approx(ratio.mean().item(), rel=1e-4)


def test_map_cosines_are_those_of_the_recorded_maps(shared_pipe):
    found = map_similarity.measure_maps(shared_pipe, PROMPTS, [3, 4], prompt_batch=1, **SAMPLING)
    texts = [p["text"] for p in PROMPTS]
    with record(shared_pipe, Keep(per_step=True, per_head=True)) as recorder:
        pictures = generate(shared_pipe, texts, [3, 4], recorder=recorder, **SAMPLING)
    maps = recorder.maps()
    assert found["heads"].shape == (7, 2, 2, len(maps.layers), 2)
    first = next(iter(maps.layers.values()))[1, 0, 1, 1]  # seed 4 of prompt 0, step 1, head 1
    a, b = first[..., 2].flatten(), first[..., 7].flatten()  # red, chair
    expected = torch.cosine_similarity(a, b, dim=0).item()
    assert found["heads"][2, 1, 1, 0, 1] == pytest.approx(expected, abs=1e-4)
    largest = [m for m in maps.layers.values() if m.shape[4] == found["resolutions"][0]]
    mean = torch.stack([m[3, 0, 0].mean(0) for m in largest]).mean(0)  # seed 4 of prompt 1
    expected = torch.cosine_similarity(mean[..., 2].flatten(), mean[..., 5].flatten(), dim=0)
    assert found["pooled"][6, 1, 0, 0] == pytest.approx(expected.item(), abs=1e-4)
    assert np.abs(found["pictures"].astype(int) - pictures).max() <= 1


def test_shares_are_the_recorders_and_both_sides_sum_to_one(shared_pipe):
    words = {"class word": "toy", "other noun": "cat"}
    arms = [Arm(concept, name, word) for concept in "xy" for name, word in words.items()]
    design = Design(arms, [Prompt("a {} next to a man", ())], [0, 1])
    table = key_predictions.measure_shares(shared_pipe, design, **SAMPLING)
    assert dict(table.sizes) == {"concept": 2, "arm": 2, "prompt": 1, "seed": 2}
    for prefix in ("", "predicted_"):
        total = sum(table[prefix + role] for role in ("slot", "bos", "words", "padding"))
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    with record(shared_pipe) as recorder:
        generate(shared_pipe, ["a toy next to a man"], [0, 1], recorder=recorder, **SAMPLING)
    shares = token_shares(recorder.maps())
    toy = table.sel(arm="class word").isel(prompt=0)
    np.testing.assert_allclose(toy["slot"][0], shares[:, 2], **BATCH)
    np.testing.assert_allclose(toy["bos"][0], shares[:, 0], **BATCH)
    np.testing.assert_allclose(toy["slot"][1], toy["slot"][0])


def test_both_sides_of_the_first_proposition_have_the_same_rows(shared_pipe):
    texts = [p["text"] for p in PROMPTS]
    found = key_predictions.measure_keys(shared_pipe, texts, [3, 4], [0, 1], **SAMPLING)
    layers = len(cross_attention_layers(shared_pipe.unet))
    shape = (2 * (21 + 10), 2, layers, 2)
    assert found["measured"].shape == found["sink"].shape == found["predicted"].shape == shape
    assert found["bos"].shape == (4, 2, layers, 2) and len(found["layers"]) == layers
    pairs = map_similarity.measure_maps(shared_pipe, PROMPTS, [3, 4], **SAMPLING)
    # dog (2) and frog (5): the seventh pair of five tokens, seed 4, after the first prompt's rows.
    row = 2 * 21 + 10 + 6
    np.testing.assert_allclose(found["measured"][row], pairs["heads"][6, 1], **BATCH)


def test_with_equal_queries_and_one_step_the_prediction_is_a_cosine_of_one(pipe):
    for layer in cross_attention_layers(pipe.unet).values():
        torch.nn.init.zeros_(layer.to_q.weight)
    found = key_predictions.measure_keys(pipe, ["a red cat"], [0], [0], **SAMPLING)
    np.testing.assert_allclose(found["measured"], 1, rtol=1e-5)
    np.testing.assert_allclose(found["predicted"], 1, rtol=1e-5)


@pytest.mark.parametrize("measure", ["keys", "maps", "shares"])
def test_hooks_are_gone_after_an_error(shared_pipe, measure):
    before = hook_count(shared_pipe.unet)
    bad = SAMPLING | {"height": 7, "width": 7}  # not a size that the pipeline draws
    with pytest.raises(ValueError, match="divisible"):
        if measure == "keys":
            key_predictions.measure_keys(shared_pipe, ["a cat"] * 2, [0], [0], **bad)
        elif measure == "maps":
            map_similarity.measure_maps(shared_pipe, PROMPTS, [0], **bad)
        else:
            design = Design([Arm("x", "class word", "toy")], [Prompt("a {}", ())], [0])
            key_predictions.measure_shares(shared_pipe, design, **bad)
    assert hook_count(shared_pipe.unet) == before


def test_the_judge_labels_pictures_of_a_pairs_own_prompt():
    nouns = ["cat", "chair", "dog", "frog"]
    seen = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=bool)
    colours = {"cat": ["red", "blue", None, None], "chair": ["blue", None, None, None]}
    judge = SimpleNamespace(
        read=lambda images: np.arange(len(images)),
        present=lambda reading, noun: seen[reading, nouns.index(noun)],
        colour=lambda reading, noun: colours[noun],
    )
    kind = ["bound", "bound", "nouns", "attributes", "nouns"]
    first, second = ["red", "blue", "cat", "red", "dog"], ["cat", "chair", "chair", "blue", "frog"]
    pictures = np.zeros((2, 2, 4, 4, 3), np.uint8)
    found = map_similarity.judge_pairs(judge, pictures, [0, 0, 0, 0, 1], kind, first, second)
    assert found["right"].tolist() == [[1, 0], [1, -1], [-1, -1], [-1, -1], [-1, -1]]
    assert found["found"].tolist() == [[1, 1], [1, 0], [2, 1], [-1, -1], [2, 0]]
