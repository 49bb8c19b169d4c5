"""Whoever looks at pictures answers in one form, whichever profile drew them."""

import numpy as np
import pytest
import torch
from tiny_hub import save_detector, save_encoder
from transformers import (
    AutoImageProcessor,
    Dinov2Model,
    Owlv2ForObjectDetection,
    Owlv2Processor,
)

from t2i_lens.inversion import published_files
from t2i_lens.inversion.published_files import LearnedToken
from t2i_lens.judging import judges
from t2i_lens.judging.protocols import FOUND, Judge
from t2i_lens.models import profiles
from t2i_lens.study.subject import Subject
from t2i_lens.toybox.judge import Judge as ToyboxJudge
from t2i_lens.toybox.likeness import PictureEye, likeness
from t2i_lens.toybox.nets import tokenizer

NOUNS = {"cat": "cat", "dog": "dog", "cat_toy": "toy"}
PICTURES = np.random.default_rng(0).integers(0, 256, (judges.TOGETHER + 3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    tokenizer.build(folder / "words")
    save_detector(folder, folder / "words")
    processor = Owlv2Processor.from_pretrained(folder, backend="pil")
    return judges.Detector(Owlv2ForObjectDetection.from_pretrained(folder), processor, NOUNS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return judges.Encoder(Dinov2Model.from_pretrained(folder), processor)


def test_a_noun_is_found_where_the_detectors_own_reading_has_a_box_for_it(detector):
    found = detector.read(PICTURES).nouns >= FOUND
    assert isinstance(detector, Judge)
    assert found.shape == (len(PICTURES), len(NOUNS)) and 0 < found.mean() < 1
    queries = [[judges.QUERY.format(word) for word in NOUNS.values()]] * len(PICTURES)
    inputs = detector._processor(text=queries, images=list(PICTURES), return_tensors="pt")
    with torch.no_grad():
        outputs = detector._model(**inputs)
    boxes = detector._processor.post_process_grounded_object_detection(
        outputs, threshold=judges.THRESHOLD
    )
    for row, some in zip(found, boxes, strict=True):
        assert set(np.flatnonzero(row)) == set(some["labels"].tolist())


def test_a_learned_concept_is_looked_for_by_its_class_word(detector):
    looked_for = NOUNS | {"toy": "toy"}
    both = judges.Detector(detector._model, detector._processor, looked_for).read(PICTURES).nouns
    assert np.array_equal(both[:, 2], both[:, 3])
    assert np.array_equal(both[:, :3], detector.read(PICTURES).nouns)


def test_the_nouns_are_those_of_prompts_and_of_the_profiles_own_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(published_files, "folder_of", lambda profile: tmp_path / profile)
    before = judges.nouns_of(tmp_path / "sd15")
    assert "bicycle" in before and "gadget" not in before
    for name, class_word in {"<my-gadget>": "gadget", "<fox>": "dog"}.items():
        token = LearnedToken(name, (torch.ones(1, 768),), "diffusers")
        published_files.add_tokens([token], class_word, "sd15", "mine.bin")
    nouns = judges.nouns_of(tmp_path / "sd15")
    assert nouns["my_gadget"] == nouns["gadget"] == "gadget"
    assert nouns["fox"] == "fox"  # prompts ask for it: not for any dog


def test_likeness_of_a_picture_to_itself_is_one_and_no_other_is_liker(encoder):
    alike = likeness(encoder, PICTURES[:4], PICTURES[:1])["likeness"]
    assert alike[0] == pytest.approx(1, abs=1e-5) and alike.argmax() == 0
    assert np.allclose(np.linalg.norm(encoder.embed(PICTURES), axis=1), 1)


def test_the_toybox_keeps_its_own_judge_and_eye():
    toybox = Subject("toybox")
    assert isinstance(toybox.judge.get(), ToyboxJudge)
    assert isinstance(toybox.eye.get(), PictureEye)


def test_without_hub_and_cache_the_detector_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(profiles.huggingface_hub, "HfApi", lambda: None)  # as without a network
    with pytest.raises(OSError, match=r"^google/owlv2-base-patch16-ensemble is neither"):
        judges.public_judge(tmp_path / "sd15")
