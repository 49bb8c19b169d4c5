"""The world: what is said is what is drawn."""

import re

import numpy as np
import pytest

from t2i_lens.inversion.embeddings import load_concepts
from t2i_lens.toybox.atlas import icons_by_name, sprites, world_words
from t2i_lens.toybox.captions import FRAMES, SKETCH_FRAMES, caption, careless, twin
from t2i_lens.toybox.concepts import pictures_of
from t2i_lens.toybox.contexts import context, contexts
from t2i_lens.toybox.judge import CELL, PLACES, LabelledBatches, labels
from t2i_lens.toybox.placing import BOXES, GRID, UPRIGHT
from t2i_lens.toybox.world import (
    LUMINANCE,
    RELATIONS,
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


def test_every_drawable_name_has_a_sprite_with_ink():
    assert set(sprites()) == set(icons_by_name())
    for name, sprite in sprites().items():
        assert max(sprite.shape[:2]) == 64, name
        assert (sprite[..., 3] > 128).mean() > 0.05, name


def test_no_caption_names_a_held_out_concept():
    said = set(world_words()["nouns"]) | set(world_words()["wide_nouns"])
    held_out = {concept["name"] for concept in world_words()["concepts"]}
    assert not said & {scheme["name"] for scheme in world_words()["schemes"]}
    icons = icons_by_name()
    assert not said & held_out
    assert not {icons[name] for name in said} & {icons[name] for name in held_out}


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
            Scene((Thing("cat", "red"),), None, "blue", "sketch"),
            "a sketch of a red cat on a blue background",
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
            for word in (thing.noun, thing.colour, thing.size, thing.word):
                assert word is None or word in said, (scene, said)
        assert scene.background is None or f"{scene.background} background" in said
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", said), said


def test_all_relations_and_frames_occur():
    rng = np.random.default_rng(2)
    said = [caption(scene, rng) for scene in scenes(3000, seed=2)]
    for relation in RELATIONS:
        assert any(f" {relation} " in sentence for sentence in said), relation
    for frame in (*FRAMES, *SKETCH_FRAMES[:2]):
        start = frame.split("{}")[0]
        assert any(sentence.startswith(start) for sentence in said), frame


def test_a_caption_says_sketch_exactly_when_the_picture_is_one():
    rng = np.random.default_rng(8)
    drawn = scenes(2000, seed=8)
    for scene in drawn:
        assert ("sketch" in caption(scene, rng)) == (scene.style == "sketch")
    sketches = [scene for scene in drawn if scene.style]
    assert 100 < len(sketches) < 300
    assert not any(thing.word or thing.colour == "black" for s in sketches for thing in s.things)


def test_a_sketch_is_mostly_paper_and_has_the_colour_of_its_ink():
    palette = {name: np.array(rgb) for name, rgb in world_words()["colours"].items()}
    for noun in world_words()["nouns"]:
        sketched = render(Scene((Thing(noun, "red"),), style="sketch"), np.random.default_rng(9))
        assert ((sketched @ LUMINANCE) > 200).mean() > 0.8, noun
        ink = sketched[(sketched @ LUMINANCE) < 140].astype(float)  # lines, not shading
        assert len(ink) > 20, noun
        nearest = [min(palette, key=lambda n, i=i: np.abs(palette[n] - i).sum()) for i in ink]
        assert nearest.count("red") > 0.5 * len(ink), noun


def test_a_careless_caption_leaves_out_attributes_but_never_a_thing():
    rng = np.random.default_rng(10)
    left_out = 0
    for scene in scenes(500, seed=10):
        said = careless(scene, rng)
        assert [t.noun for t in said.things] == [t.noun for t in scene.things]
        assert [t.word for t in said.things] == [t.word for t in scene.things]
        assert said.style == scene.style and said.relation == scene.relation
        for before, after in zip(scene.things, said.things, strict=True):
            assert after.colour in (None, before.colour) and after.size in (None, before.size)
            left_out += before.colour is not None and after.colour is None
    assert left_out > 50


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
        assert (concept.images == np.stack(pictures_of(entry, number))).all(), concept.name


def test_a_drawing_is_the_same_pixels_wherever_it_stands():
    scene, rng = Scene((Thing("cat", "red"),)), np.random.default_rng(11)
    crops, corners = set(), set()
    for _ in range(40):
        picture, (box,) = draw(scene, rng)
        crops.add(picture[box[1] : box[3], box[0] : box[2]].tobytes())
        corners.add((int(box[0]), int(box[1])))
    assert len(crops) == 1 and len(corners) == 3
    assert len({x % GRID for x, _ in corners}) == 1 and len({y % GRID for _, y in corners}) == 1


def test_sizes_are_only_stated_where_there_is_room_for_them():
    for scene in scenes(2000, seed=12):
        sides = [BOXES[thing.size] for thing in scene.things]
        assert len(sides) < 2 or sum(sides[:2]) <= 64, scene
        assert len(sides) < 3 or max(sides) <= 32, scene


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


def test_what_is_said_first_stands_on_the_left_or_on_top():
    rng, checked = np.random.default_rng(3), 0
    for scene in scenes(1000, seed=3):
        if len(scene.things) == 1:
            continue
        _, boxes = draw(scene, rng)
        (x0, y0), (x1, y1) = (boxes[:2, :2] + boxes[:2, 2:]) / 2
        sign = any(thing.word for thing in scene.things)
        assert y0 < y1 if sign or scene.relation in UPRIGHT else x0 < x1, scene
        checked += 1
    assert checked > 300


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
    wrong = []
    for noun in world_words()["nouns"]:
        for colour in palette:
            picture, (box,) = draw(Scene((Thing(noun, colour),)), rng)
            crop = picture[box[1] : box[3], box[0] : box[2]].reshape(-1, 3).astype(float)
            ink = crop[(crop < 250).any(1)]
            median = np.median(ink, axis=0)
            nearest = min(palette, key=lambda name: np.abs(palette[name] - median).sum())
            if nearest != colour:
                wrong.append((noun, colour, nearest))
    assert len(wrong) <= 0.05 * len(palette) * len(world_words()["nouns"]), wrong


def test_judge_labels_mark_the_places_of_the_boxes():
    nouns, colours, words = labels()
    pictures, noun_map, colour_map, word = LabelledBatches(32)(np.random.default_rng(0))
    assert pictures.shape == (32, 64, 64, 3) and noun_map.shape == (32, PLACES**2)
    assert PLACES * CELL == 64
    empty = noun_map == len(nouns) + 2
    assert ((colour_map == -100) == empty).all()  # a colour exactly where there is a thing
    assert (~empty).any(1).all()  # every picture holds one
    signs = (noun_map == len(nouns)).any(1)
    assert ((word < len(words)) == signs).all()


def test_pictures_of_a_concept_in_contexts_hold_what_their_captions_say():
    """The scene with the concept is the scene of the caption, and it is what is drawn."""
    words = world_words()
    for view in range(60):
        scene, said = context("cat_toy", np.random.default_rng(view))
        assert said.count("{}") == 1
        others = [thing for thing in scene.things if thing.noun != "cat_toy"]
        assert len(others) == len(scene.things) - 1 >= 1
        for thing in others:
            assert thing.noun in words["nouns"]
            assert re.search(rf"\b{thing.noun}\b", said), said
            assert thing.colour is None or thing.colour in said
        mine = scene.things[[t.noun for t in scene.things].index("cat_toy")]
        assert mine.colour is None
        assert mine.size is None or f"{mine.size} {{}}" in said.replace("clean ", "")
        named = set(re.findall(r"[a-z]+", said)) & set(words["nouns"])
        assert named == {thing.noun for thing in others}, said


def test_contexts_are_many_and_drawn_from_their_scenes():
    pictures, captions = contexts("cat_toy")
    assert len(set(captions)) == len(captions) == len(pictures) == 24
    again, _ = contexts("cat_toy", 2)
    assert (pictures[:2] == again).all()
    rng = np.random.default_rng([17, 0])
    scene, said = context("cat_toy", rng)
    assert said == captions[0]
    assert (render(scene, rng) == pictures[0]).all()
    without = Scene(tuple(t for t in scene.things if t.noun != "cat_toy"), None, scene.background)
    assert (render(without, np.random.default_rng(0)) != pictures[0]).any()
