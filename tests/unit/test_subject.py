"""What depends on the profile is asked of its subject, and keyed by what it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from t2i_lens.base.files import file_digest
from t2i_lens.base.lazy import canonical
from t2i_lens.base.paths import BUILD, DATA, ROOT
from t2i_lens.experiments import prompt_sets
from t2i_lens.judging import judges
from t2i_lens.models import profiles
from t2i_lens.study.claims import load_claims
from t2i_lens.study.execute import NOTEBOOKS
from t2i_lens.study.subject import Subject


@pytest.fixture(scope="module")
def toybox():
    return Subject("toybox")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A cache without a network that knows the commits of the public judge and eye."""
    for repo, commit in ((judges.DETECTOR, "1" * 40), (judges.ENCODER, "2" * 40)):
        reference = tmp_path / f"models--{repo.replace('/', '--')}" / "refs" / "main"
        reference.parent.mkdir(parents=True)
        reference.write_text(commit)
    monkeypatch.setattr(profiles.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(profiles.huggingface_hub, "HfApi", lambda: None)


def test_nothing_is_loaded_before_it_is_asked_for(toybox):
    for thing in (toybox.pipe, toybox.judge, toybox.eye, toybox.clip):
        assert not thing._loaded


def test_judge_eye_and_model_are_known_by_their_weights(toybox):
    weights = DATA / "models" / "judge" / "judge.safetensors"
    assert canonical(toybox.judge) == {"fingerprint": file_digest(weights)}
    assert toybox.pipe.fingerprint == profiles.fingerprint(profiles.get("toybox"))
    assert toybox.pipe.fingerprint in toybox.clip.fingerprint
    assert toybox.eye.fingerprint in toybox.clip.fingerprint


def test_a_subject_keeps_what_it_has_made(toybox):
    assert toybox.judge is toybox.judge and toybox.tokens is toybox.tokens


def test_pictures_of_an_unknown_world_are_seen_by_public_models_at_their_commits(offline):
    subject = Subject("sd15")
    with pytest.warns(UserWarning, match="unpinned, at commit 1111"):
        judge = subject.judge
    with pytest.warns(UserWarning, match="unpinned, at commit 2222"):
        eye = subject.eye
    assert judge.fingerprint.startswith(f"{judges.DETECTOR}@{'1' * 40}")
    assert eye.fingerprint == f"{judges.ENCODER}@{'2' * 40}"
    with pytest.raises(ValueError, match="picture tower of 'sd15' is not known"):
        _ = subject.clip


def test_tokens_of_a_shipped_model_are_shipped_and_those_of_others_are_the_users(toybox):
    assert toybox.folder == DATA / "embeddings" / "toybox"
    assert Subject("sd15").folder == BUILD / "embeddings" / "sd15"
    assert toybox.doses_folder == DATA / "embeddings" / "toybox-doses"
    assert len({token.concept.name for token in toybox.tokens}) == len(toybox.tokens) > 1
    standard = toybox.variants.query("variant == 'standard'")
    assert set(standard["concept"]) <= {token.concept.name for token in toybox.tokens}


def test_words_and_sentences_are_those_of_the_world(toybox):
    other = Subject("sd15")
    assert toybox.words == prompt_sets.read_words("toybox") != other.words
    assert toybox.pairs("objects") == prompt_sets.load_pairs("toybox", "objects")
    assert other.pairs("objects") == prompt_sets.load_pairs("sd", "objects")
    assert toybox.signs("test", "simple") == prompt_sets.load_signs("toybox", "test", "simple")


def test_quality_is_what_was_measured_or_empty(toybox):
    assert toybox.quality == json.loads((DATA / "models" / "toybox" / "quality.json").read_text())
    assert Subject("sd15").quality == {}


def test_rows_are_sorted_by_the_captions_counts_where_these_are_known(toybox, tmp_path):
    rows = np.ones((4, 2), dtype=np.float32)
    table = {"rows": rows, "pieces": np.array(list("abcd")), "bos": np.array(0), "eos": np.array(1)}
    (tmp_path / "token_counts.json").write_text(json.dumps({"0": 1, "1": 1, "2": 1}))
    subject = Subject("toybox")
    subject.model = replace(subject.model, repo=str(tmp_path))
    assert subject.vocabulary(table).pieces == ["c"]
    assert Subject("sd15").vocabulary(table).pieces == ["c", "d"]


def test_every_claim_has_the_bound_of_the_profile_or_of_the_toybox(toybox):
    claims = load_claims()
    bounded = {claim.id for claim in claims.values() if "toybox" in claim.bounds}
    assert set(toybox.bounds) == bounded
    assert all(toybox.bounds[id] == claims[id].bounds["toybox"] for id in bounded)
    other = Subject("sd15").bounds
    assert bounded <= set(other)
    for id, bound in other.items():
        assert bound == claims[id].bounds.get("sd15", claims[id].bounds.get("toybox"))


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="unknown profile 'sd99'"):
        Subject("sd99")


def test_no_chapter_and_no_experiment_looks_at_the_profile_itself():
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        text = "\n".join(cell for cell in code if not cell.startswith("profile: str = "))
        for asked in ("profile ==", "/ profile", "(profile", "load_judge", "quality.json",
                      "judging.judges", "import judges", '"toybox"'):  # fmt: skip
            assert asked not in text, (notebook.name, asked)
    for room in ("experiments", "methods", "probes", "judging", "stats", "figures", "inversion"):
        for module in (ROOT / "lib" / "t2i_lens" / room).glob("*.py"):
            for asked in ("profile ==", "/ profile.", 'models" / "toybox'):
                assert asked not in module.read_text(), (module.name, asked)
