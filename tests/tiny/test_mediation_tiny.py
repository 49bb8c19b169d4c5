"""An exchange changes what it names and nothing else, and leaves the model as it was."""

import numpy as np
import pytest
import torch

from t2i_lens.experiments import mediation
from t2i_lens.experiments.mediation import CLASS_WORD, OTHERS, TOKEN, UNRELATED, Exchange, Sentence
from t2i_lens.models.tokens import encode
from t2i_lens.probes.sampling import text_states
from t2i_lens.probes.text_parts import exchanged_part, kept_part
from t2i_lens.probes.unet_hooks import cross_attention_layers

QUICK = {"num_inference_steps": 3, "guidance_scale": 5.0}
SENTENCES = [
    Sentence("toy", "a {} next to a man", ("man",), ("red", "toy", "chair")),
    Sentence("toy", "a cat and a {} with a friend", ("cat", "friend"), ("red", "toy", "dog")),
]
WHOLE = Exchange(TOKEN, CLASS_WORD, "whole", "all")


def drawn(pipe, exchange):
    return mediation.draw(pipe, SENTENCES, exchange, [0], **QUICK)


def hooks_of(pipe):
    modules = [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_a_prompt_exchanged_with_itself_has_the_same_bits(shared_pipe):
    plain = drawn(shared_pipe, Exchange(TOKEN))
    itself = drawn(shared_pipe, Exchange(TOKEN, TOKEN, "controls", "identity"))
    assert np.array_equal(plain, itself)


def test_keys_and_values_of_all_positions_are_the_whole_prompt(shared_pipe):
    whole, other = drawn(shared_pipe, WHOLE), drawn(shared_pipe, Exchange(CLASS_WORD))
    assert np.array_equal(whole, other)
    assert not np.array_equal(whole, drawn(shared_pipe, Exchange(TOKEN)))


def test_slot_and_others_are_all_that_can_be_exchanged_as_the_states_before_are_equal(shared_pipe):
    after = Exchange(TOKEN, CLASS_WORD, "positions", "all", roles=("slot", *OTHERS))
    assert np.array_equal(drawn(shared_pipe, after), drawn(shared_pipe, Exchange(CLASS_WORD)))
    token, word = (mediation.states_of(shared_pipe, SENTENCES, w) for w in (TOKEN, CLASS_WORD))
    for number, sentence in enumerate(SENTENCES):
        (slot,) = encode(shared_pipe, sentence.text(TOKEN)).positions("red")
        assert torch.equal(token[number, :slot], word[number, :slot])
        assert not torch.equal(token[number, slot:], word[number, slot:])


@pytest.mark.parametrize(
    ("mended", "broken"), [(("key",), ("value",)), (("value",), ("key",))], ids=["keys", "values"]
)
def test_mending_one_path_is_breaking_the_other(shared_pipe, mended, broken):
    one = drawn(shared_pipe, Exchange(TOKEN, CLASS_WORD, "paths", "a", into=mended))
    other = drawn(shared_pipe, Exchange(CLASS_WORD, TOKEN, "paths", "b", into=broken))
    # The same states in another order of computation: a grey level at most.
    assert np.abs(one.astype(int) - other).max() <= 1


def test_every_step_and_every_block_together_are_the_whole(shared_pipe):
    thirds = [Exchange(TOKEN, CLASS_WORD, "steps", str(n), third=n) for n in range(3)]
    edits = [mediation.edits_of(shared_pipe, SENTENCES, one, 10) for one in thirds]
    spans = [of_third[0][0].steps for of_third in edits]
    assert spans[0][0] == 0 and spans[2][1] == 10
    assert [a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False)] == [True, True]
    blocks = [Exchange(TOKEN, CLASS_WORD, block=path) for path in mediation.BLOCKS.values()]
    paths = [mediation.edits_of(shared_pipe, SENTENCES, one, 3)[0][0].layers for one in blocks]
    assert [p for of_block in paths for p in of_block] == list(
        cross_attention_layers(shared_pipe.unet)
    )


def test_the_first_attention_at_the_others_is_all_that_enters_their_first_residual(shared_pipe):
    by_part = [
        mediation.edits_of(
            shared_pipe,
            SENTENCES,
            Exchange(TOKEN, CLASS_WORD, "text", part, roles=OTHERS, part=part),
            3,
        )
        for part in ("residual", "attention")
    ]
    for one, other in zip(*by_part, strict=True):
        # One adds the same numbers before the MLP, the other after it.
        assert torch.allclose(one[0].states.tensor, other[0].states.tensor, atol=1e-5)


def test_a_residual_stream_that_is_exchanged_whole_gives_the_donors_states(shared_pipe):
    encoder, (text, donor) = shared_pipe.text_encoder, ("a red cat", "a blue cat")
    before = hooks_of(shared_pipe)
    with kept_part(encoder, "residual", 0) as kept:
        theirs = text_states(shared_pipe, [donor])
    everywhere = torch.ones(kept[0].shape[:2], dtype=torch.bool)
    with exchanged_part(encoder, "residual", 0, kept[0], everywhere):
        found = text_states(shared_pipe, [text])
    assert torch.equal(found, theirs)
    with exchanged_part(encoder, "MLP", 0, torch.zeros_like(kept[0]), ~everywhere):
        assert torch.equal(text_states(shared_pipe, [text]), text_states(shared_pipe, [text]))
    assert hooks_of(shared_pipe) == before


def test_controls_change_as_much_or_half(shared_pipe):
    def change(kind):
        exchange = Exchange(TOKEN, CLASS_WORD, "controls", kind, roles=OTHERS, change=kind)
        return mediation.edits_of(shared_pipe, SENTENCES, exchange, 3)[0][0].states.tensor - base[0]

    base = mediation.states_of(shared_pipe, SENTENCES, TOKEN)
    whole = mediation.states_of(shared_pipe, SENTENCES, CLASS_WORD)[0] - base[0]
    assert torch.allclose(change("permuted").norm(), whole.norm(), rtol=1e-5)
    assert torch.allclose(change("half"), whole / 2, atol=1e-6)
    unrelated = mediation.states_of(shared_pipe, SENTENCES, UNRELATED)
    assert not torch.equal(unrelated[0], base[0] + whole)


def test_noise_is_the_same_at_every_call_and_another_for_each_sentence(shared_pipe):
    noised = mediation.NOISED + CLASS_WORD
    one, again = (mediation.states_of(shared_pipe, SENTENCES, noised) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one[0], mediation.states_of(shared_pipe, SENTENCES, CLASS_WORD)[0])


def test_a_part_that_is_not_there_is_refused_in_one_line(shared_pipe):
    with (
        pytest.raises(ValueError, match="layers 0 to 1") as error,
        kept_part(shared_pipe.text_encoder, "MLP", 7),
    ):
        pass
    assert len(str(error.value).splitlines()) == 1


def test_words_of_different_lengths_are_refused_in_one_line(shared_pipe):
    longer = Sentence("toy", "a {} next to a man", ("man",), ("red", "zebra", "chair"))
    with pytest.raises(ValueError, match="different numbers of tokens") as error:
        mediation.draw(shared_pipe, [longer], WHOLE, [0], **QUICK)
    assert len(str(error.value).splitlines()) == 1
