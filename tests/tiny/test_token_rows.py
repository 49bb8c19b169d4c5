"""Placeholders in prompts, against the ids that the text encoder is really fed."""

import pytest
import safetensors.torch
import torch

from t2i_lens.models.tokens import add_placeholder, encode


def fed_by_diffusers(pipe, prompt):
    """Ids that reach the text encoder in the pipeline's own prompt encoding."""
    seen = []
    hook = pipe.text_encoder.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    pipe.encode_prompt(prompt, "cpu", 1, False)
    hook.remove()
    return tuple(seen[0][0].tolist())


@pytest.mark.parametrize("prompt", ["", "a photo of a cat", "A  CAT, and 12 xylophones!"])
def test_without_placeholders_the_row_is_what_diffusers_feeds(shared_pipe, prompt):
    row = encode(shared_pipe, prompt)
    assert row.ids == fed_by_diffusers(shared_pipe, prompt)
    assert row.ids[row.bos] == shared_pipe.tokenizer.bos_token_id
    assert row.ids[row.eos] == shared_pipe.tokenizer.eos_token_id
    assert shared_pipe.tokenizer.eos_token_id not in row.ids[1 : row.eos]


def test_words_are_gathered_from_their_pieces(shared_pipe):
    row = encode(shared_pipe, "a cat and xylophones, Café")
    assert [word.text for word in row.words] == ["a", "cat", "and", "xylophones", ",", "café"]
    assert row.positions("cat") == (2,)
    assert len(row.positions("xylophones")) > 1
    positions = [p for word in row.words for p in word.positions]
    assert positions == list(range(1, row.eos))


def test_several_vectors_take_several_positions(pipe):
    ids = add_placeholder(pipe, "<cat-toy>", 3)
    row = encode(pipe, "a <cat-toy> next to a man")
    assert row.ids[2:5] == ids
    assert row.positions("<cat-toy>") == (2, 3, 4)
    assert row.positions("man") == (8,)
    assert row.ids == fed_by_diffusers(pipe, "a <cat-toy> next to a man")


def test_a_prompt_already_written_out_is_not_expanded_again(pipe):
    add_placeholder(pipe, "<t>", 3)
    assert encode(pipe, "a <t> <t>_1 <t>_2 cat").ids == encode(pipe, "a <t> cat").ids
    assert encode(pipe, "a <t> <t>").positions("<t>") == tuple(range(2, 8))


def test_upper_case_names_keep_all_their_vectors(pipe):
    ids = add_placeholder(pipe, "EasyNegative", 3)
    row = encode(pipe, "a photo of EasyNegative, cat")
    assert row.positions("EasyNegative") == (4, 5, 6)
    assert row.ids[4:7] == ids
    assert row.positions("cat") == (8,)


def test_upper_case_names_loaded_by_diffusers_keep_all_their_vectors(pipe, tmp_path):
    rows = torch.randn(3, pipe.text_encoder.config.hidden_size)
    safetensors.torch.save_file({"EasyNegative": rows}, tmp_path / "learned_embeds.safetensors")
    pipe.load_textual_inversion(tmp_path)
    row = encode(pipe, "a EasyNegative cat")
    assert row.positions("EasyNegative") == (2, 3, 4)
    assert len(set(row.ids[2:5])) == 3
    assert row.positions("cat") == (5,)


def test_a_name_that_begins_with_another_name_is_itself(pipe):
    first, second = add_placeholder(pipe, "ctoy", 3), add_placeholder(pipe, "ctoy2", 2)
    row = encode(pipe, "ctoy2 and ctoy")
    assert row.ids[1:7] == (*second, row.ids[3], *first)
    assert row.positions("ctoy2") == (1, 2)
    assert row.positions("ctoy") == (4, 5, 6)


def test_more_than_ten_vectors_are_not_mistaken_for_one_another(pipe):
    ids = add_placeholder(pipe, "<t>", 12)
    assert encode(pipe, "a <t>").ids[2:14] == ids
    assert encode(pipe, "<t>_11").ids[1] == ids[11]


def test_a_bare_word_does_not_match_inside_a_word(pipe):
    ids = add_placeholder(pipe, "sks", 1)
    assert ids[0] not in encode(pipe, "a xsksy cat").ids
    assert encode(pipe, "a sks, cat").ids[2] == ids[0]


@pytest.mark.parametrize("taken", ["cat</w>", "<t>", "<t>_1", "<t>_3", "<t>_2"])
def test_a_taken_name_is_refused_and_changes_nothing(pipe, taken):
    add_placeholder(pipe, "<t>", 3)
    tokens, rows = len(pipe.tokenizer), len(pipe.text_encoder.get_input_embeddings().weight)
    with pytest.raises(ValueError, match="already in the vocabulary"):
        add_placeholder(pipe, taken)
    assert len(pipe.tokenizer) == tokens
    assert len(pipe.text_encoder.get_input_embeddings().weight) == rows


def test_a_name_whose_next_vector_is_taken_is_refused(pipe):
    add_placeholder(pipe, "<t>_x", 1)
    pipe.tokenizer.add_tokens(["<u>_2"])
    with pytest.raises(ValueError, match="<u>_2"):
        add_placeholder(pipe, "<u>", 2)


@pytest.mark.parametrize(("name", "vectors"), [("", 1), ("a b", 1), ("<t>", 0)])
def test_an_unusable_name_is_refused(pipe, name, vectors):
    with pytest.raises(ValueError, match="placeholder"):
        add_placeholder(pipe, name, vectors)


def test_a_prompt_that_does_not_fit_is_refused_instead_of_cut(pipe):
    add_placeholder(pipe, "<t>", 80)
    with pytest.raises(ValueError, match="81 tokens, 75 fit"):
        encode(pipe, "a <t>")
    assert encode(pipe, " ".join(["cat"] * 75)).eos == 76
    with pytest.raises(ValueError, match="76 tokens"):
        encode(pipe, " ".join(["cat"] * 76))


def test_adding_leaves_every_other_row_as_it_was(pipe):
    before = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    add_placeholder(pipe, "<t>", 2)
    after = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert len(after) == len(before) + 2
    assert not after[len(before) :].any()


def test_spare_rows_of_a_table_are_kept(pipe):
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer) + 10, mean_resizing=False)
    rows = len(pipe.text_encoder.get_input_embeddings().weight)
    add_placeholder(pipe, "<t>", 2)
    assert len(pipe.text_encoder.get_input_embeddings().weight) == rows
