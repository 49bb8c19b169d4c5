"""The world: what is said is what is drawn."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.toybox.judge import (
    CELL,
    PLACES,
    Judge,
    JudgeNetwork,
    LabelledBatches,
    Outcome,
    Reading,
    labels,
    names,
)
from t2i_lens.toybox.world.atlas import held_out, sprites, styles_of, world_words
from t2i_lens.toybox.world.captions import COMPLETE, FRAMES, Care, caption, careless, twin
from t2i_lens.toybox.world.concepts import pictures_of, thing_of
from t2i_lens.toybox.world.contexts import context, contexts
from t2i_lens.toybox.world.scenes import (
    LUMINANCE,
    RELATIONS,
    SIDES,
    Scene,
    Thing,
    draw,
    gradient_map,
    render,
    sample_scene,
)


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_every_name_has_drawings_with_ink():
    words = world_words()
    drawn = styles_of()
    near = [c["name"] for c in words["concepts"] if "icons" in c]
    assert set(drawn) == {*words["nouns"], *words["wide_nouns"], *near}
    assert all(len(drawn[noun]) >= 4 for noun in words["nouns"])
    for name, sprite in sprites().items():
        assert max(sprite.shape[:2]) == 64, name
        assert (sprite[..., 3] > 128).mean() > 0.05, name


def test_no_caption_names_a_held_out_object_or_scheme():
    said = set(world_words()["nouns"]) | set(world_words()["wide_nouns"])
    held_out_names = {concept["name"] for concept in world_words()["concepts"]}
    assert not said & {scheme["name"] for scheme in world_words()["schemes"]}
    assert not said & held_out_names


def test_no_training_picture_shows_a_held_out_pair_of_noun_and_style():
    pairs = {(t.noun, t.style) for scene in scenes(3000) for t in scene.things}
    assert len(held_out()) == 16 and not pairs & held_out()
    everything = {(noun, style) for noun in world_words()["nouns"] for style in styles_of()[noun]}
    assert everything - held_out() <= pairs


def test_a_judge_is_taught_held_out_pairs_too():
    rng = np.random.default_rng(0)
    made = [sample_scene(rng, held_out_too=True) for _ in range(3000)]
    assert held_out() <= {(t.noun, t.style) for scene in made for t in scene.things}


def test_initializer_tokens_are_nouns_of_the_world():
    for concept in world_words()["concepts"]:
        assert concept["initializer_token"] in world_words()["nouns"]


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (Scene((Thing("elephant"),)), "an elephant"),
        (Scene((Thing("cat", "orange", "small"),)), "a small orange cat"),
        (Scene((Thing("glasses", "red"),)), "red glasses"),
        (Scene((Thing("cat"), Thing("man")), "next to"), "a cat next to a man"),
        (
            Scene((Thing("toy"), Thing("man"), Thing("friend")), "above", "orange"),
            "a toy above a man and a friend on an orange background",
        ),
        (
            Scene((Thing("cat", "red", style="flat"),), None, "blue"),
            "a flat red cat on a blue background",
        ),
        (Scene((Thing("sign", "orange", word="open"),)), 'an orange sign that says "open"'),
    ],
)
def test_a_scene_is_said_in_plain_english(scene, sentence):
    assert caption(scene) == sentence


def test_every_caption_states_all_that_its_scene_holds():
    rng = np.random.default_rng(1)
    for scene in scenes(300):
        said = caption(scene, rng)
        for thing in scene.things:
            for word in (thing.noun, thing.colour, thing.size, thing.word, thing.style):
                assert word is None or word in said, (scene, said)
        assert scene.background is None or f"{scene.background} background" in said
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", said), said


def test_all_relations_and_frames_occur():
    rng = np.random.default_rng(2)
    said = [caption(scene, rng) for scene in scenes(3000, seed=2)]
    for relation in RELATIONS:
        assert any(f" {relation} " in sentence for sentence in said), relation
    for frame in FRAMES:
        start = frame.split("{}")[0]
        assert any(sentence.startswith(start) for sentence in said), frame


def test_careless_captions_err_at_the_rates_that_they_are_given():
    rng = np.random.default_rng(10)
    care = Care(omitted=0.3, absent=0.2, unsaid=0.5, unstyled=0.4, exchanged=0.0)
    several = [scene for scene in scenes(3000, seed=10) if len(scene.things) > 1]
    omitted = absent = uncoloured = coloured = unstyled = 0
    for scene in several:
        said = careless(scene, rng, care)
        there, named = ({t.noun for t in each.things} for each in (scene, said))
        omitted += bool(there - named)
        absent += bool(named - there)
        assert len(said.things) >= 1 and (len(said.things) == 1) == (said.relation is None)
        kept = {t.noun: t for t in said.things}
        unstyled += all(t.style is None for t in said.things)
        for thing in scene.things:
            if thing.colour and thing.noun in kept:
                coloured += 1
                uncoloured += kept[thing.noun].colour is None
    n = len(several)
    assert omitted / n == pytest.approx(0.3, abs=0.04)  # four deviations
    # A scene of three that lost none has no room for a fourth word.
    assert 0.1 < absent / n < 0.2
    assert uncoloured / coloured == pytest.approx(0.5, abs=0.05)
    assert unstyled / n == pytest.approx(0.4, abs=0.06)


def test_complete_captions_say_the_scene_itself_but_for_the_order_of_equals():
    rng = np.random.default_rng(11)
    for scene in scenes(300, seed=11):
        said = careless(scene, rng, COMPLETE)
        assert set(said.things) == set(scene.things)
        assert (said.relation, said.background) == (scene.relation, scene.background)
        if scene.relation not in ("next to", "with", "and"):
            assert said == scene


def test_a_gradient_map_keeps_the_order_of_luminance_and_ends_at_its_stops():
    stops = [[0, 0, 40], [200, 30, 30], [255, 250, 200]]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    mapped = gradient_map(grey, stops)
    assert mapped[0, 0].tolist() == stops[0] and mapped[0, -1].tolist() == stops[-1]
    assert (np.diff(mapped[0].astype(float) @ LUMINANCE) >= -0.5).all()


def test_the_shipped_concepts_are_the_ones_that_the_world_draws():
    words, shipped = world_words(), load_concepts()
    listed = [*words["concepts"], *words["schemes"]]
    assert [c.name for c in shipped] == [entry["name"] for entry in listed]
    assert len(shipped) >= 24 and {c.kind for c in shipped} == {"object", "style", "colour_scheme"}
    for number, (concept, entry) in enumerate(zip(shipped, listed, strict=True)):
        drawn = np.stack(pictures_of(entry, number)).astype(int)
        # A scheme maps luminance, a sum that processors round in their own ways: one grey level.
        assert np.abs(concept.images.astype(int) - drawn).max() <= 1, concept.name


def test_places_sizes_and_views_vary_under_one_caption():
    scene, rng = Scene((Thing("cat", "red", style="flat"),)), np.random.default_rng(11)
    drawn = [draw(scene, rng) for _ in range(60)]
    boxes = np.stack([box for _, (box,) in drawn])
    assert len({picture.tobytes() for picture, _ in drawn}) == 60
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(0) > 6).all()  # of at most 64 / sqrt(12) = 18
    assert np.ptp((boxes[:, 2:] - boxes[:, :2]).max(1)) > 8


def test_stated_sizes_meet_at_most_at_their_ends():
    for count in range(3):
        assert SIDES["small"][count][1] <= SIDES[None][count][0]
        assert SIDES[None][count][1] <= SIDES["large"][count][0]


def test_a_twin_differs_in_what_its_caption_says_and_in_what_is_drawn():
    rng = np.random.default_rng(13)
    swapped = 0
    for scene in scenes(500, seed=13):
        other = twin(scene, rng)
        assert other != scene and caption(other) != caption(scene)
        swapped += sorted(caption(other).split()) == sorted(caption(scene).split())
        assert (
            render(other, np.random.default_rng(1)) != render(scene, np.random.default_rng(1))
        ).any()
    assert swapped > 60  # the same words in another order: no bag of words tells them apart


def test_the_same_seed_draws_the_same_picture():
    scene = scenes(1)[0]
    first, again = (render(scene, np.random.default_rng(5)) for _ in range(2))
    other = render(scene, np.random.default_rng(6))
    assert (first == again).all()
    assert (first != other).any()


def test_a_stated_relation_holds():
    rng, checked = np.random.default_rng(3), set()
    for scene in scenes(1500, seed=3):
        if len(scene.things) == 1 or any(thing.word for thing in scene.things):
            continue
        _, boxes = draw(scene, rng)
        (l0, t0, r0, b0), (l1, t1, r1, b1) = boxes[:2]
        if scene.relation == "left of":
            assert r0 <= l1, scene
        elif scene.relation in ("above", "on top of"):
            assert b0 <= t1 and min(r0, r1) >= max(l0, l1) - 4, scene  # boxes are whole cells
        elif scene.relation == "next to":
            assert min(b0, b1) >= max(t0, t1) - 4, scene
        checked.add(scene.relation)
    assert checked == set(RELATIONS)


def test_objects_lie_inside_the_picture_and_do_not_hide_each_other():
    rng = np.random.default_rng(4)
    for scene in scenes(500, seed=4):
        _, boxes = draw(scene, rng)
        assert boxes.min() >= 0 and boxes.max() <= 64
        for i, (l0, t0, r0, b0) in enumerate(boxes):
            for l1, t1, r1, b1 in boxes[:i]:
                width, height = min(r0, r1) - max(l0, l1), min(b0, b1) - max(t0, t1)
                shared = max(width, 0) * max(height, 0)
                assert shared == 0, scene


def test_a_tint_makes_the_stated_colour_the_nearest_one():
    """The judge's colour labels rest on this; natural drawings are exempt."""
    rng = np.random.default_rng(5)
    palette = {name: np.array(rgb, float) for name, rgb in world_words()["colours"].items()}
    wrong, tinted = [], 0
    for noun in world_words()["nouns"]:
        for style, colour in product(styles_of()[noun], palette):
            picture, (box,) = draw(Scene((Thing(noun, colour, "large", style=style),)), rng)
            crop = picture[box[1] : box[3], box[0] : box[2]].reshape(-1, 3).astype(float)
            ink = crop[(crop < 250).any(1)]
            median = np.median(ink, axis=0)
            nearest = min(palette, key=lambda name: np.abs(palette[name] - median).sum())
            tinted += 1
            if nearest != colour:
                wrong.append((noun, style, colour, nearest))
    assert len(wrong) <= 0.05 * tinted, wrong


def test_judge_labels_mark_the_places_of_the_boxes():
    nouns, colours, styles, words = labels()
    batch = LabelledBatches(64)(np.random.default_rng(0))
    pictures, first, second, colour_map, style_map, word = batch
    assert pictures.shape == (64, 64, 64, 3) and first.shape == (64, PLACES**2)
    assert PLACES * CELL == 64
    empty, mixed = first == len(nouns) + 2, first != second
    assert ((colour_map == -100) == (empty | mixed)).all()  # a colour where one thing stands
    assert (~empty).any(1).all() and mixed.any()
    assert not (mixed & empty).any() and int(style_map.max()) < len(styles)
    signs = (first == len(nouns)).any(1)
    assert ((word < len(words)) == signs).all()


def test_outcomes_of_two_objects_are_those_that_published_work_counts():
    nouns = list(names())
    first, second = nouns.index("cat"), nouns.index("dog")
    cases = {
        Outcome.both: [(0.9, 0.0), (0.0, 0.9)],
        Outcome.only_first: [(0.9, 0.0), (0.0, 0.1)],
        Outcome.only_second: [(0.1, 0.0), (0.0, 0.9)],
        Outcome.only_mixture: [(0.4, 0.4), (0.0, 0.0)],
        Outcome.first_and_mixture: [(0.9, 0.0), (0.4, 0.4)],
        Outcome.second_and_mixture: [(0.4, 0.4), (0.0, 0.9)],
        Outcome.none: [(0.1, 0.1), (0.0, 0.0)],
    }
    places = np.zeros((len(cases), 2, len(nouns)))
    for picture, held in enumerate(cases.values()):
        for place, (a, b) in enumerate(held):
            places[picture, place, [first, second]] = a, b
    none = np.zeros(0)
    reading = Reading(places.max(1), none, none, none, places, none)
    torch.manual_seed(0)
    judge = Judge(JudgeNetwork(*(len(some) for some in labels())))
    assert judge.outcomes(reading, "cat", "dog") == list(cases)


def test_a_composed_concept_counts_as_its_noun_and_a_near_one_as_itself_or_its_class():
    asked = names()
    assert asked["cat_toy"] == ("toy",) and asked["tiger"] == ("tiger", "lion")
    assert set(asked) >= {c["name"] for c in world_words()["concepts"]}


CAT_TOY = thing_of(next(c for c in world_words()["concepts"] if c["name"] == "cat_toy"))


def test_pictures_of_a_concept_in_contexts_hold_what_their_captions_say():
    """The scene with the concept is the scene of the caption, and it is what is drawn."""
    words = world_words()
    for view in range(60):
        scene, said = context(CAT_TOY, np.random.default_rng(view))
        assert said.count("{}") == 1
        mine = [thing for thing in scene.things if replace(thing, size=None) == CAT_TOY]
        others = [thing for thing in scene.things if thing not in mine]
        assert len(mine) == 1 and len(others) == len(scene.things) - 1 >= 1
        for thing in others:
            assert thing.noun in words["nouns"]
            assert re.search(rf"\b{thing.noun}\b", said), said
            assert thing.colour is None or thing.colour in said
        assert mine[0].size is None or mine[0].size in said


def test_contexts_are_many_and_drawn_from_their_scenes():
    pictures, captions = contexts(CAT_TOY)
    assert len(set(captions)) == len(captions) == len(pictures) == 24
    again, _ = contexts(CAT_TOY, 2)
    assert (pictures[:2] == again).all()
    rng = np.random.default_rng([17, 0])
    scene, said = context(CAT_TOY, rng)
    assert said == captions[0]
    assert (render(scene, rng) == pictures[0]).all()
