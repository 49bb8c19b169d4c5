"""Doses of training: what is put in the slot, what is measured, and when a table is trusted."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from t2i_lens.base.lazy import Lazy
from t2i_lens.experiments import dose
from t2i_lens.experiments.arms import Arm, Design
from t2i_lens.experiments.prompt_sets import Prompt
from t2i_lens.study.store import Store

PROMPTS = [
    Prompt("a {} next to a man", ("man",)),
    Prompt("a red {} with a man and a friend", ("man", "friend")),
]
FEW = {"num_inference_steps": 2, "guidance_scale": 3.0}
STEPS = np.arange(0, 101, 25)


class BrightnessJudge:
    """Finds each noun as surely as one colour channel is bright; enough to tell pictures apart."""

    nouns = ["man", "friend", "pinata", "owl"]

    def read(self, images):
        seen = images.mean(axis=(1, 2)) / 255
        return SimpleNamespace(nouns=np.concatenate([seen, seen[:, :1]], axis=1))


def token(concept, variant, width, word, kind="object"):
    rng = np.random.default_rng(sum(f"{concept} {variant}".encode()))
    path = word + np.cumsum(rng.normal(0, 0.02, (len(STEPS), width)), axis=0)
    path[0] = word
    vectors = list(path.astype(np.float32))
    trajectory = pd.DataFrame({"step": STEPS, "vector": vectors})
    return {
        "variant": variant, "concept": concept, "kind": kind, "superclass": "toy",
        "trajectory": trajectory,
    }  # fmt: skip


@pytest.fixture(scope="module")
def word(shared_pipe):
    table = shared_pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    return table[shared_pipe.tokenizer.encode("toy")[1]].copy()


@pytest.fixture(scope="module")
def table(word):
    tokens = [
        token("pinata", "standard", len(word), word),
        token("owl", "standard", len(word), word),
        token("blueprint", "standard", len(word), word, "style"),
        token("owl", "seed_1", len(word), word),
        token("pinata", "seed_1", len(word), word),
        token("pinata", "rate_0.01", len(word), word),
    ]
    return dose.doses(pd.DataFrame(tokens), {"toy": word})


@pytest.fixture(scope="module")
def measured(shared_pipe, table):
    design = Design(dose.arms(table[:3]), PROMPTS, [0, 1])
    return dose.measure(shared_pipe, BrightnessJudge(), design, **FEW)


def test_objects_come_in_all_their_seeds_with_start_and_stretched_word(table, word):
    assert table["concept"].drop_duplicates().tolist() == ["pinata", "owl"]
    for _, some in table.groupby("concept"):
        steps = some.groupby("variant", sort=False)["step"].agg(list).to_dict()
        # A tenth of 100 is nearest to 25, three and six tenths to 25 and 50.
        taken = [25, 50, 100]
        assert steps == {"start": [0], "standard": taken, "stretched": taken, "seed_1": taken}
    start = table[table["variant"] == "start"]
    assert (np.stack(start["vector"]) == word).all() and np.allclose(start["cosine"], 1)
    stretched = table[table["variant"] == "stretched"].set_index(["concept", "step"])
    standard = table[table["variant"] == "standard"].set_index(["concept", "step"])
    assert np.allclose(stretched["cosine"], 1)
    pd.testing.assert_series_equal(stretched["norm"], standard["norm"], rtol=1e-5)
    assert (standard["cosine"] < 1 - 1e-4).all()


def test_checkpoints_are_recorded_steps_up_to_the_last():
    assert dose.checkpoints(np.arange(0, 501, 25)) == [50, 150, 300, 500]
    assert dose.checkpoints(np.array([0, 2, 4])) == [2, 4]


def test_every_picture_has_a_row_with_what_is_lost_of_what_was_asked(measured):
    assert len(measured) == 3 * 2 * 2 and not measured.duplicated(dose.KEYS).any()
    asked = measured.groupby("prompt")["asked"].unique().str[0]
    assert asked.to_dict() == {PROMPTS[0].text: 1, PROMPTS[1].text: 2}
    assert measured["lost"].between(0, measured["asked"]).all()
    for name in ("doubt", "share", "attention"):
        assert measured[name].between(0, 1).all() and measured[name].nunique() > 1


def test_the_start_is_the_class_word_itself(shared_pipe, measured):
    plain = Design([Arm("pinata", "word", "toy", "pinata")], PROMPTS, [0, 1])
    said = dose.measure(shared_pipe, BrightnessJudge(), plain, **FEW)
    start = measured[measured["arm"] == "start 0"].reset_index(drop=True)
    for name, tolerance in dose.TOLERANCES.items():
        np.testing.assert_allclose(start[name], said[name], atol=tolerance)
    other = measured[measured["arm"] == "standard 50"].reset_index(drop=True)
    assert (other["attention"] - said["attention"]).abs().max() > 1e-5


def test_numbers_belong_to_their_own_picture(shared_pipe, table, measured):
    last = Design(dose.arms(table[2:3]), PROMPTS[1:], [1])
    alone = dose.measure(shared_pipe, BrightnessJudge(), last, **FEW)
    assert len(alone) == 1
    assert set(dose.compare_doses(alone, measured)) == set(dose.TOLERANCES)


def test_a_table_that_differs_or_lacks_a_picture_is_refused(measured):
    with pytest.raises(ValueError, match="doubt differs by 0.2 from the table"):
        dose.compare_doses(measured.assign(doubt=measured["doubt"] + 0.2), measured)
    with pytest.raises(ValueError, match="1 of 12 pictures are not in the table"):
        dose.compare_doses(measured, measured[1:])


def test_what_was_done_is_not_done_again(shared_pipe, table, tmp_path, monkeypatch):
    monkeypatch.setattr(dose, "SAMPLING", FEW)
    pipe, judge = Lazy(lambda: shared_pipe, "tiny@1"), Lazy(BrightnessJudge, "judge@1")
    lines, some = [], table[table["variant"] == "start"]
    store = Store(tmp_path / "results")
    first = dose.carry_out(store, pipe, judge, some, PROMPTS, lines.append)
    assert lines[0].startswith("8 pictures, at most")
    assert first["concept"].drop_duplicates().tolist() == ["pinata", "owl"]
    before = {file: file.stat().st_mtime_ns for file in store.used}
    again = dose.carry_out(store, pipe, judge, some, PROMPTS, lines.append)
    pd.testing.assert_frame_equal(first, again)
    assert len(before) == 2 and {f: f.stat().st_mtime_ns for f in store.used} == before


def test_a_table_is_trusted_only_whole_and_of_these_weights(table, measured, tmp_path):
    def marked(model="tiny@1", rows=table):
        return dose.marks(Lazy(int, model), Lazy(int, "judge@1"), rows, PROMPTS)

    ours = {"pinata": marked()["pinata"]}
    file = dose.save(measured, ours, tmp_path / "doses")
    pd.testing.assert_frame_equal(dose.load(file.parent, marked()), measured)
    longer = table.assign(vector=table["vector"].map(lambda row: row * 2))
    for other in (marked("tiny@2"), marked(rows=longer)):
        with pytest.raises(ValueError, match="made from other weights .pinata.: run"):
            dose.load(file.parent, other)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        dose.load(file.parent, marked())
    (file.parent / dose.SIDECAR).write_text(json.dumps([]))
    with pytest.raises(ValueError, match="is damaged"):
        dose.load(file.parent, marked())
    file.unlink()
    with pytest.raises(FileNotFoundError, match="t2i-lens doses"):
        dose.load(file.parent, marked())


def test_means_stand_beside_what_was_put_in_the_slot(table, measured):
    means = dose.per_dose(measured, table)
    assert len(means) == 3
    for row in means.itertuples():
        some = measured[measured["arm"] == row.arm]
        assert row.lost == pytest.approx(some["lost"].mean())
        assert row.norm == pytest.approx(float(np.linalg.norm(row.vector)))
