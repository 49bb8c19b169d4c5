"""Prompt sets: generated as committed, made of the world's words, annotated as they say."""

from collections import Counter

import pytest

from t2i_lens.experiments import prompt_sets
from t2i_lens.toybox.world import captions
from t2i_lens.toybox.world.atlas import world_words

PAIRED = ("animals", "animals_objects", "objects", "relations")
KINDS = ("simple", "creative")
each_profile = pytest.mark.parametrize("profile", prompt_sets.SETS)


def said_by_the_world() -> set[str]:
    world = world_words()
    frames = " ".join(captions.FRAMES).replace("{}", "").split()
    grammar = "a an and with next to left of above on top sign that says background".split()
    lists = (world["nouns"], world["colours"], world["sizes"], world["words"], frames, grammar)
    return {word for words in lists for word in words}


@each_profile
def test_generating_again_gives_the_files_that_are_there(profile):
    file = prompt_sets.FOLDER / f"{profile}.yaml"
    assert prompt_sets.rendered(profile) == file.read_text()


@each_profile
@pytest.mark.parametrize(
    ("name", "count"), [("animals", 66), ("animals_objects", 144), ("objects", 66)]
)
def test_sets_have_the_sizes_of_the_published_ones_and_no_prompt_twice(profile, name, count):
    texts = [prompt.text for prompt in prompt_sets.load_pairs(profile, name)]
    assert len(texts) == len(set(texts)) == count


def test_every_word_of_the_toybox_sets_is_a_word_of_its_world():
    texts = [p.text for name in PAIRED for p in prompt_sets.load_pairs("toybox", name)]
    for bucket in ("validation", "test"):
        for kind in KINDS:
            for prompt in prompt_sets.load_signs("toybox", bucket, kind):
                texts += [prompt.source_text, prompt.target_text]
    spoken = {word for text in texts for word in text.replace('"', "").split()}
    assert spoken <= said_by_the_world()


@each_profile
@pytest.mark.parametrize("name", PAIRED)
def test_every_pair_of_content_words_is_bound_or_unbound_and_none_is_both(profile, name):
    words = prompt_sets.read_words(profile)
    content = {*words["animals"], *words["objects"], *words["colours"]}
    for prompt in prompt_sets.load_pairs(profile, name):
        said = [word for word in prompt.text.split() if word in content]
        pairs = Counter(frozenset(pair) for pair in (*prompt.bound, *prompt.unbound))
        expected = {frozenset((a, b)) for i, a in enumerate(said) for b in said[:i]}
        assert set(pairs) == expected and set(pairs.values()) == {1}, prompt.text


@each_profile
@pytest.mark.parametrize("name", PAIRED)
def test_bound_words_stand_side_by_side_and_unbound_ones_do_not(profile, name):
    for prompt in prompt_sets.load_pairs(profile, name):
        for attribute, noun in prompt.bound:
            assert f" {attribute} {noun} " in f" {prompt.text} "
        for first, second in prompt.unbound:
            assert f"{first} {second}" not in prompt.text


@each_profile
def test_relations_are_said_in_both_orders(profile):
    prompts = prompt_sets.load_pairs(profile, "relations")
    for one, other in zip(prompts[::2], prompts[1::2], strict=True):
        assert one.relation == other.relation and one.relation in one.text
        assert one.unbound[0] == other.unbound[0][::-1]


@each_profile
def test_no_sign_word_is_in_both_buckets_and_all_are_used(profile):
    words = {
        bucket: {
            kind: (
                [p.source for p in prompt_sets.load_signs(profile, bucket, kind)],
                [p.target for p in prompt_sets.load_signs(profile, bucket, kind)],
            )
            for kind in KINDS
        }
        for bucket in ("validation", "test")
    }
    for kinds in words.values():
        for sources, targets in kinds.values():
            assert sorted(sources) == sorted(targets)
            assert all(a != b for a, b in zip(sources, targets, strict=True))
    validation, test = (set(words[b]["simple"][0]) for b in ("validation", "test"))
    assert not validation & test
    assert validation | test == set(prompt_sets.read_words(profile)["signs"])
    assert len(validation) * 3 == len(test)  # a quarter, as one of four buckets


@each_profile
def test_a_sign_prompt_changes_in_its_word_alone(profile):
    for prompt in prompt_sets.load_signs(profile, "test", "creative"):
        assert prompt.template.count("{}") == 1
        assert prompt.source_text.replace(prompt.source, prompt.target) == prompt.target_text


def test_a_sentence_names_the_articles_that_english_asks_for():
    assert prompt_sets.phrase("cat", "orange") == "an orange cat"
    assert prompt_sets.phrase("apple", "red") == "a red apple"
    assert prompt_sets.phrase("glasses", "red", plural=True) == "red glasses"


def test_unknown_names_list_those_there_are():
    with pytest.raises(ValueError, match="toybox, sd14"):
        prompt_sets.load_pairs("sdxxl", "animals")
    with pytest.raises(ValueError, match="relations"):
        prompt_sets.load_pairs("sd", "signs")
    with pytest.raises(ValueError, match="validation, test"):
        prompt_sets.load_signs("sd", "train", "simple")
    with pytest.raises(ValueError, match="toybox, sd14"):
        prompt_sets.read_words("sdxxl")


def test_every_other_profile_is_asked_the_same_sentences():
    asked = {name: prompt_sets.load_pairs(name, "animals") for name in ("toybox", "sd15", "sdxl")}
    assert asked["sd15"] == asked["sdxl"] == prompt_sets.load_pairs("sd", "animals")
    assert asked["sd15"] != asked["toybox"]
