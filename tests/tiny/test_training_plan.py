"""The plan of all inversions: what is done stays done, and each run is what it would be alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from t2i_lens.inversion import training_plan
from t2i_lens.inversion.embedding_table import (
    load_inversions,
    load_variants,
    read_table,
    sort_vocabulary,
    variants_folder,
)
from t2i_lens.inversion.embeddings import load, load_contexts
from t2i_lens.inversion.starts import INITIALISATIONS, initial_rows
from t2i_lens.inversion.training import train
from t2i_lens.inversion.training_data import (
    STYLE_TEMPLATES,
    Draws,
    InversionConfig,
    encoded_pictures,
    sentences,
)
from t2i_lens.inversion.training_plan import RECIPES, Variant
from t2i_lens.probes.sampling import text_states

RECIPE = InversionConfig(
    steps=4, learning_rate=5e-3, batch_size=2, flip_probability=0.0, record_every=2
)
# As in test_training: another batch rounds differently; Adam's steps of up to 2e-2 here are four
# times those that the bound of 5e-6 was found for.
ROW_TOLERANCE = 2e-5
NAMES = ["toy", "cat", "dog"]
CAPTIONS = ("a {} next to a man", "a chair and a {}")


@pytest.fixture(scope="module")
def concepts(make_concept):
    hero = replace(make_concept("cat_toy", "<cat-toy>"), hero=True)
    style = replace(make_concept("blueprint", initializer="blue"), kind="style")
    return [hero, make_concept("pinata", initializer="dog"), style]


@pytest.fixture(scope="module")
def vocabulary(shared_pipe):
    return sort_vocabulary(read_table(shared_pipe), None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tiny"


@pytest.fixture
def planned(concepts, folder, make_concept):
    """Writes nothing; the runs of the study's own plan, for three tiny concepts."""

    def contexts(name):
        return make_concept("contexts", pictures=2).images, CAPTIONS

    plan = training_plan.plan(RECIPE, concepts)
    return training_plan.runs(plan, concepts, contexts, folder)


@pytest.fixture
def carry_out(shared_pipe, vocabulary):
    def run(some, mark="tiny@1"):
        left = training_plan.pending(some, mark)
        training_plan.carry_out(shared_pipe, left, mark, vocabulary, NAMES, lambda line: None)
        return left

    return run


def stamps(some):
    files = [run.folder / run.concept.name / "provenance.json" for run in some]
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def test_the_plan_is_all_concepts_with_two_seeds_and_the_hero_in_other_ways(planned, concepts):
    by_variant = {}
    for run in planned:
        by_variant.setdefault(run.variant.name, []).append(run)
    for name in ("standard", "seed_1"):
        assert [r.concept.name for r in by_variant[name]] == [c.name for c in concepts]
    assert {run.config.seed for run in planned} == {0, 1}
    hero = [run for run in planned if run.concept.name == "cat_toy" and run.config.seed == 0]
    adam = [run for run in hero if run.config.optimizer == "adamw"]
    assert {r.config.learning_rate for r in adam} == {1e-3, 2e-3, 5e-3, 1e-2, 2e-2}
    assert {r.config.weight_decay for r in adam} == {0, 1e-2, 1e-1, 1}
    objects = {c.name for c in concepts if c.kind == "object"}
    for name in ("noise", "l1", "l2", "direction", "sgd"):
        assert {r.concept.name for r in by_variant[name]} == objects
    assert [v for v, some in by_variant.items() if some[0].config.fixed_norm] == ["direction"]
    assert [v for v, some in by_variant.items() if some[0].config.l1_penalty] == ["l1"]
    assert [v for v, some in by_variant.items() if some[0].config.l2_penalty] == ["l2"]
    assert {r.variant.initialisation for r in hero} == set(INITIALISATIONS)
    assert {len(r.config.templates) for r in hero} == {0, 1, 27}
    assert {r.variant.contexts for r in hero} == {"none", "mixed", "only"}
    few = sum(len(by_variant[name]) - 1 for name in ("noise", "l1", "l2", "direction", "sgd"))
    assert len(planned) == 2 * len(concepts) + len(hero) - 1 + few
    for run in planned:
        if run.concept.kind == "style":
            assert run.config.templates == STYLE_TEMPLATES
    assert len({(run.folder, run.concept.name) for run in planned}) == len(planned)


def test_a_profile_without_a_recipe_is_refused():
    with pytest.raises(ValueError, match="no recipe for profile 'other'; there are: toybox"):
        training_plan.recipe("other")


def test_a_second_run_of_the_plan_repeats_nothing(planned, carry_out, folder):
    assert len(carry_out(planned)) == len(planned)
    before = stamps(planned)
    assert len(before) == len(planned)
    assert carry_out(planned) == []
    assert stamps(planned) == before
    # What the chapters load is the standard run of each concept and nothing else.
    assert [i.concept.name for i in load_inversions(folder)] == ["cat_toy", "blueprint", "pinata"]
    table = load_variants(folder)
    assert len(table) == len(planned)
    assert set(table.variant) == {run.variant.name for run in planned}
    hero = table[table.concept == "cat_toy"].set_index("variant")
    assert hero.loc["rate_0.02"].learning_rate == 2e-2
    assert hero.loc["start_random_row"].initialisation == "random_row"
    assert hero.loc["contexts_mixed"].contexts == "mixed"
    assert hero.loc["one_template"].templates == 1
    assert hero.loc["seed_1"].seed == 1
    for row in table.itertuples():
        assert row.norm == pytest.approx(float(np.linalg.norm(row.vector)))
        np.testing.assert_array_equal(row.trajectory.vector.iloc[-1], row.vector)
        assert row.trajectory.step.tolist() == [0, 2, 4]


def test_an_interrupted_batch_loses_nothing_that_was_finished_before_it(
    planned, carry_out, make_pipe, vocabulary
):
    some = planned[:9]
    pipe, batches = make_pipe(), []

    def interrupt(line):
        batches.append(line)
        if len(batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training_plan.carry_out(pipe, some, "tiny@1", vocabulary, NAMES, interrupt, 4)
    left = training_plan.pending(some, "tiny@1")
    assert left == some[6:]  # three batches of three

    def fail(module, inputs):
        raise KeyboardInterrupt

    hook = pipe.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        training_plan.carry_out(pipe, left, "tiny@1", vocabulary, NAMES, lambda line: None)
    hook.remove()
    assert training_plan.pending(some, "tiny@1") == left
    finished = [run for run in some if run not in left]
    before = stamps(finished)
    assert carry_out(some) == left
    assert stamps(finished) == before
    assert training_plan.pending(some, "tiny@1") == []


def test_another_model_picture_or_config_is_trained_anew(planned, carry_out):
    some = planned[:2]
    carry_out(some)
    assert training_plan.pending(some, "tiny@2") == some
    images = some[0].concept.images.copy()
    images[0, 0, 0] ^= 1
    other = replace(some[0], concept=replace(some[0].concept, images=images))
    longer = replace(some[1], config=replace(some[1].config, steps=5))
    assert training_plan.pending([other, longer], "tiny@1") == [other, longer]
    start = replace(some[0].variant, initialisation="random_row")
    assert len(training_plan.pending([replace(some[0], variant=start)], "tiny@1")) == 1
    (some[0].folder / "cat_toy" / "trajectory.parquet").unlink()
    assert training_plan.pending(some, "tiny@1") == [some[0]]
    carry_out(some, mark="tiny@2")
    assert load(some[0].folder / "cat_toy").provenance["model"] == "tiny@2"


def test_each_run_is_what_it_would_be_alone(planned, carry_out, shared_pipe, vocabulary):
    carry_out(planned)
    results = []
    for run in planned:
        beside = load(run.folder / run.concept.name)
        start = initial_rows(
            shared_pipe, run.concept, run.variant.initialisation, vocabulary, NAMES,
            run.config.seed,
        )  # fmt: skip
        (alone,) = train(shared_pipe, [run.concept], run.config, False, initial=[start])
        assert (alone.embedding - beside.embedding).abs().max() < ROW_TOLERANCE, run.variant
        assert (beside.embedding - start).abs().max() > 100 * ROW_TOLERANCE, run.variant
        results.append(beside.embedding[0])
    hero = [r for r, run in zip(results, planned, strict=True) if run.concept.name == "cat_toy"]
    apart = torch.cdist(torch.stack(hero), torch.stack(hero)) + torch.eye(len(hero))
    # In four steps decay, penalties and a fixed norm have hardly begun to act.
    assert apart.min() > 0
    late = ("decay", "l1", "l2", "direction")
    variants = [run.variant.name for run in planned if run.concept.name == "cat_toy"]
    early = [i for i, name in enumerate(variants) if not name.startswith(late)]
    assert apart[early][:, early].min() > 100 * ROW_TOLERANCE


def test_initialisations_are_what_they_say(shared_pipe, vocabulary, make_concept):
    concept = make_concept("pinata", initializer="toy")
    table = shared_pipe.text_encoder.get_input_embeddings().weight.detach()

    def word(text):
        return table[shared_pipe.tokenizer.encode(text)[1]]

    def start(name, seed=0):
        return initial_rows(shared_pipe, concept, name, vocabulary, NAMES, seed)

    assert torch.equal(start("class_word")[0], word("toy"))
    torch.testing.assert_close(start("mean_of_names")[0], (word("cat") + word("dog")) / 2)
    states = text_states(shared_pipe, ["toy"])[0]
    torch.testing.assert_close(start("encoder_output")[0], states[1])
    row = start("random_row")
    assert (torch.from_numpy(vocabulary.trained) == row).all(1).any()
    direction = start("random_direction")
    assert float(direction.norm()) == pytest.approx(vocabulary.mean_norm, rel=1e-5)
    assert torch.cosine_similarity(direction, torch.from_numpy(vocabulary.trained)).max() < 0.9
    for name in INITIALISATIONS:
        assert torch.equal(start(name), start(name))
    for name in ("random_row", "random_direction"):
        assert not torch.equal(start(name), start(name, seed=1))


def test_a_mean_of_no_names_is_refused(shared_pipe, vocabulary, make_concept):
    concept = make_concept("pinata", initializer="toy")
    with pytest.raises(ValueError, match="names other than the initializer"):
        initial_rows(shared_pipe, concept, "mean_of_names", vocabulary, ["toy"])


@pytest.mark.parametrize("mixed", [True, False])
def test_a_captioned_picture_is_trained_with_its_own_caption(shared_pipe, make_concept, mixed):
    own, among = make_concept("pinata", pictures=3), make_concept("contexts", pictures=2)
    concept = training_plan.in_contexts(own, among.images, CAPTIONS, mixed)
    templates = RECIPE.templates if mixed else ()
    config = replace(RECIPE, batch_size=400, templates=templates)
    latents, _, _, chosen = next(Draws(shared_pipe, concept, config, 1000))
    said = sentences(concept, config)
    assert said == (*templates, *CAPTIONS)
    pictures = encoded_pictures(shared_pipe, among)[0][0]
    in_context = torch.zeros(400, dtype=torch.bool)
    for picture, caption in zip(pictures, CAPTIONS, strict=True):
        shown = (latents == picture).flatten(1).all(1)
        assert shown.sum() == (100 if mixed else 200)
        assert {said[i] for i in chosen[shown]} == {caption}
        in_context |= shown
    assert in_context.sum() == (200 if mixed else 400)
    if mixed:
        assert {said[i] for i in chosen[~in_context]} == set(templates)


def test_pictures_and_captions_that_do_not_pair_are_refused(shared_pipe, make_concept):
    concept = replace(make_concept("pinata"), captions=CAPTIONS)
    with pytest.raises(ValueError, match="3 pictures and 2 captions"):
        train(shared_pipe, [concept], RECIPE, False)
    silent = make_concept("pinata")
    with pytest.raises(ValueError, match="without a caption"):
        train(shared_pipe, [silent], replace(RECIPE, templates=()), False)


def test_runs_of_different_steps_do_not_share_a_batch(planned, shared_pipe):
    longer = [replace(r, config=replace(r.config, steps=5)) for r in planned[:5]]
    batches = list(training_plan.chunks([*planned[:5], *longer], together=4))
    assert [len(batch) for batch in batches] == [2, 3, 2, 3]
    assert all(len({run.config.steps for run in batch}) == 1 for batch in batches)
    configs = [planned[0].config, longer[1].config]
    with pytest.raises(ValueError, match="must agree in steps"):
        train(shared_pipe, [planned[0].concept, longer[1].concept], configs, False)


def test_the_estimate_grows_with_the_steps(planned, shared_pipe):
    some = planned[:2]
    few, many = (
        training_plan.seconds(
            shared_pipe, [replace(r, config=replace(r.config, steps=n)) for r in some]
        )
        for n in (4, 4000)
    )
    assert many > 10 * few > 0  # 1000 times, were timing exact


def test_an_unknown_concept_is_named(concepts, folder):
    variant = Variant("standard", ("owl",), RECIPES["toybox"])
    with pytest.raises(ValueError, match="no concept owl; there are: cat_toy, pinata, blueprint"):
        training_plan.runs([variant], concepts, load_contexts, folder)


def test_contexts_are_read_with_their_captions(tmp_path):
    (tmp_path / "owl").mkdir()
    Image.new("RGB", (8, 8), (200, 10, 30)).save(tmp_path / "owl" / "1.png")
    listing = tmp_path / "owl" / "contexts.yaml"
    listing.write_text("1.png: a {} next to a man\n")
    images, captions = load_contexts("owl", tmp_path)
    assert images.shape == (1, 8, 8, 3)
    assert captions == ("a {} next to a man",)
    for text in ("1.png: an owl\n", "{}\n", "- 1.png\n"):
        listing.write_text(text)
        with pytest.raises(ValueError, match="contexts.yaml"):
            load_contexts("owl", tmp_path)
    with pytest.raises(FileNotFoundError, match="contexts.yaml is missing"):
        load_contexts("cat", tmp_path)


def test_variants_lie_beside_the_standard_runs(planned, folder):
    for run in planned:
        standard = run.variant.name == "standard"
        assert run.folder == (folder if standard else variants_folder(folder) / run.variant.name)


def test_noise_is_as_many_pictures_that_know_nothing_of_the_concept(planned):
    noise = {run.concept.name: run for run in planned if run.variant.pictures == "noise"}
    own = {run.concept.name: run for run in planned if run.variant.name == "standard"}
    for name, run in noise.items():
        assert run.concept.images.shape == own[name].concept.images.shape
        assert run.concept.images.dtype == np.uint8
        assert (run.concept.images != own[name].concept.images).mean() > 0.9
        again = training_plan.noise_pictures(own[name].concept)
        np.testing.assert_array_equal(run.concept.images, again)
    assert (noise["cat_toy"].concept.images != noise["pinata"].concept.images).mean() > 0.9


def test_a_run_saved_before_there_was_a_choice_is_not_trained_anew(planned, carry_out):
    some = planned[:1]
    carry_out(some)
    file = some[0].folder / "cat_toy" / "provenance.json"
    saved = json.loads(file.read_text())
    for name in ("optimizer", "l1_penalty", "l2_penalty", "fixed_norm"):
        del saved["config"][name]
    del saved["pictures"]
    file.write_text(json.dumps(saved))
    assert training_plan.pending(some, "tiny@1") == []
    penalised = replace(some[0], config=replace(some[0].config, l2_penalty=0.1))
    noise = replace(some[0], variant=replace(some[0].variant, pictures="noise"))
    assert training_plan.pending([penalised, noise], "tiny@1") == [penalised, noise]
