"""What is exchanged in a pair of prompts, and the readers that find it in pictures of the world."""

import numpy as np
import pytest

from t2i_lens.experiments import contents
from t2i_lens.experiments.prompt_sets import SignPrompt, load_signs, read_words
from t2i_lens.methods import localisation
from t2i_lens.probes.unet_hooks import cross_attention_layers
from t2i_lens.stats.sign_metrics import true_error
from t2i_lens.toybox.judge import load_judge
from t2i_lens.toybox.world.scenes import Scene, Thing, render

WORDS = read_words("toybox")
SMALL = {"num_inference_steps": 1, "height": 64, "width": 64}  # the judge's size


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def picture(*things, seed=0, relation=None):
    scene = Scene(tuple(things), relation)
    return render(scene, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", contents.KINDS)
def test_the_two_prompts_of_a_pair_differ_in_one_kind_of_content(kind):
    made = contents.exchanges(kind, WORDS, 6)
    assert made == contents.exchanges(kind, WORDS, 6)
    assert len({exchange.noun for exchange in made}) == 6
    for exchange in made:
        before, after = (prompt.split() for prompt in exchange.pair)
        assert exchange.noun in before and exchange.new in after and before != after
        ignored = {"a", "an"}  # the article goes with the word
        assert len(set(after) - set(before) - ignored) == 1


def test_words_are_exchanged_inside_their_template():
    (sign, *_) = load_signs("toybox", "test", "creative")
    (exchange,) = contents.word_exchanges([sign])
    assert exchange.source == exchange.target.replace(sign.target, sign.source)
    assert contents.template_text(SignPrompt('a red sign that says "{}"', "a", "b")) == "a red sign"


def test_unknown_kinds_and_too_many_pairs_are_refused():
    with pytest.raises(ValueError, match="no exchanges of 'mood'"):
        contents.exchanges("mood", WORDS, 1)
    with pytest.raises(ValueError, match="there are 24 nouns"):
        contents.exchanges("object", WORDS, 25)


def test_targets_are_found_where_the_world_drew_them_and_nowhere_else(judge):
    cases = [
        (contents.Exchange("word", "", "", "sign", "open"), Thing("sign", word="open"),
         Thing("sign", word="milk")),
        (contents.Exchange("object", "", "", "cat", "frog"), Thing("frog"), Thing("cat")),
        (contents.Exchange("colour", "", "", "car", "red"), Thing("car", "red"),
         Thing("car", "blue")),
        (contents.Exchange("style", "", "", "cat", "retro"), Thing("cat", style="retro"),
         Thing("cat", style="pastel")),
    ]  # fmt: skip
    after = [[picture(new)] for _, new, _ in cases]
    before = [[picture(old)] for _, _, old in cases]
    found = contents.read_targets(judge, np.stack([before, after]), [case[0] for case in cases])[
        "target"
    ]
    assert found.shape == (2, 4, 1)
    assert (found[0] < 0.5).all() and (found[1] > 0.5).all()


def test_the_background_is_what_is_not_the_source_sign(judge):
    cat = Thing("cat")
    old, new = (picture(cat, Thing("sign", word=word), relation="next to", seed=5)
                for word in ("open", "milk"))  # fmt: skip
    other = picture(Thing("dog"), Thing("sign", word="open"), relation="next to", seed=5)
    region = contents.sign_region(judge, old[None])[0]
    changed = (old != new).any(-1)
    assert 0.2 < region.mean() < 0.7 and region[changed].mean() > 0.95
    errors = contents.background_errors(
        judge, old[None, None], np.stack([old, new, other])[:, None, None]
    )
    same, word, noun = errors["error"][:, 0, 0]
    assert same == 0 and noun > 10 * max(word, 1)
    assert word < true_error(old, new)


def test_lost_context_counts_the_objects_that_are_not_there(judge):
    both = picture(Thing("cat"), Thing("house"), relation="left of")
    one = picture(Thing("cat"))
    pictures = np.stack([both, one])[:, None, None]
    prompts = [{"text": "a {} and a house with a cat", "context": ["house", "cat"]}]
    assert contents.lost_context(judge, pictures, prompts)["lost"].tolist() == [[[0]], [[1]]]


def test_exchanges_are_drawn_and_read_in_one_call(judge, shared_pipe):
    made = contents.exchanges("object", WORDS, 2)
    settings = localisation.single_layers(list(cross_attention_layers(shared_pipe.unet)))
    both = contents.draw_exchanges(judge, shared_pipe, made, settings, [0, 1], **SMALL)
    pairs = [exchange.pair for exchange in made]
    drawn = localisation.draw_settings(shared_pipe, pairs, settings, [0, 1], **SMALL)["pictures"]
    assert both["pictures"].shape == (len(settings), 2, 2, 64, 64, 3)
    np.testing.assert_array_equal(both["pictures"], drawn)
    read = contents.read_targets(judge, drawn, made)["target"]
    np.testing.assert_array_equal(both["target"], read)


def test_word_layers_are_the_first_of_all_layers_by_their_response(judge, shared_pipe):
    layers = list(cross_attention_layers(shared_pipe.unet))
    words = contents.word_exchanges(load_signs("toybox", "validation", "simple")[:2])
    chosen = contents.find_word_layers(judge, shared_pipe, words, [0, 1], **SMALL)
    order, localised = chosen["order"].tolist(), chosen["localised"].tolist()
    assert sorted(order) == sorted(layers)
    assert (np.diff(chosen["response"][[layers.index(path) for path in order]]) <= 0).all()
    assert localised == order[: len(localised)]
    assert 1 <= len(localised) <= localisation.quarter(len(layers))
