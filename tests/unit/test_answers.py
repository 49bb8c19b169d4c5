"""A chapter's answer: its leading claim's record in one sentence, and the page that begins so."""

import copy

import numpy as np
import pytest

from t2i_lens.figures.interactive import LARGEST, MIME, picture_series, word_maps
from t2i_lens.study.answers import answer
from t2i_lens.study.chapter_pages import arranged
from t2i_lens.study.claims import load_claims
from t2i_lens.study.verdicts import ClaimError, Record

CLAIMS = load_claims()
RECORD = Record(
    id="B01", profile="toybox", verdict="not specific", notebook="01_hero", value=0.4,
    interval=(0.3, 0.5), control={"value": 0.1, "interval": (0.0, 0.2)},
    difference={"value": 0.3, "interval": (0.2, 0.4), "pairing": "paired"}, n=12,
)  # fmt: skip
PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "AAAA"}}


def cell(id, source, *outputs, kind="code", **metadata):
    found = {"cell_type": kind, "id": id, "metadata": metadata, "source": source}
    return found | ({"outputs": list(outputs)} if kind == "code" else {})


def figure(name):
    return {"figure": {"name": name, "caption": "A figure."}}


def notebook(**about):
    cells = [
        cell("title", "# Is it so?\n\nIt may be.\n\n[![Open in Colab](x)](y)\n", kind="markdown"),
        cell("setup", "import sys", tags=["remove-cell"]),
        cell("instrument", "print(1)"),
        cell("first", "draw()", PICTURE, mystnb=figure("fig-01-first")),
        cell("second", "draw()", PICTURE, mystnb=figure("fig-01-second")),
        cell("claims", 'run.claim("B01", found)', tags=["claims"]),
    ]
    return {"cells": cells, "metadata": {"answer": about} if about else {}}


def answered(records=(RECORD,), **about):
    return answer("01_hero", notebook(**about), CLAIMS, list(records))


def ids(page):
    return [cell["id"] for cell in page["cells"]]


def test_the_record_fills_the_sentence():
    found = answered(claim="B01", text="It costs {value}; a noun, {control}; {difference} apart.")
    assert found.sentence == "It costs 0.4 [0.3, 0.5]; a noun, 0.1 [0, 0.2]; 0.3 [0.2, 0.4] apart."
    assert (found.title, found.record.verdict) == ("Is it so?", "not specific")


def test_a_chapter_without_a_sentence_is_answered_by_its_first_claim():
    found = answered()
    statement = " ".join(CLAIMS["B01"].statement.split())
    assert found.sentence == (f"{statement} The value is 0.4 [0.3, 0.5], the control 0.1 [0, 0.2].")
    assert found.figure == "fig-01-first"


def test_claims_are_linked_however_the_code_names_them_and_nothing_else_is():
    page = notebook()
    page["cells"][-1]["source"] = 'claimed("B01", found, mark="Q99")\nall_of({"B02": other})'
    (links,) = (c["source"] for c in arranged(page, None)["cells"] if c["id"] == "claims-links")
    assert "scoreboard.html#B01" in links and "scoreboard.html#B02" in links
    assert "Q99" not in links


def test_an_answer_says_what_is_not_measured():
    assert answered([]).sentence == "This is not measured yet."
    reason = Record(id="B01", profile="toybox", verdict="not measurable", reason="too few words")
    assert answered([reason]).sentence == "This model cannot show it: too few words."


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"claim": "B02"}, "01_hero is answered by claim B02, which is not its own"),
        ({"figure": "fig-01-no"}, "01_hero has no figure fig-01-no"),
        ({"text": "It is {median}."}, "asks for 'median': no such number"),
    ],
)
def test_an_answer_that_does_not_fit_its_chapter_is_refused(about, message):
    with pytest.raises(ClaimError, match=message):
        answered(**about)


def test_a_page_begins_with_question_answer_and_figure_and_keeps_the_code_in_its_place():
    source = notebook(figure="fig-01-second")
    before = copy.deepcopy(source)
    page = arranged(source, answered(figure="fig-01-second"))
    assert source == before  # the notebook itself still runs from top to bottom
    assert ids(page) == [
        "answer", "second-shown", "opening", "setup", "instrument", "first", "second",
        "second-pointer", "claims", "claims-links",
    ]  # fmt: skip
    top, shown = page["cells"][:2]
    assert top["source"].startswith("# Is it so?\n\n:::{div} answer\n")
    assert 'href="../scoreboard.html#B01">◐ not specific: claim B01</a>' in top["source"]
    assert shown["outputs"] == [PICTURE] and "remove-input" in shown["metadata"]["tags"]
    code = page["cells"][6]
    assert code["outputs"] == [] and "mystnb" not in code["metadata"]
    assert page["cells"][2]["source"] == "It may be."


def test_all_code_is_folded_but_the_instrument():
    page = arranged(notebook(), answered())
    folded = {c["id"] for c in page["cells"] if "hide-input" in c["metadata"].get("tags", [])}
    assert folded == {"first", "second", "claims"}


def test_claims_are_linked_to_their_addresses():
    links = arranged(notebook(), answered())["cells"][-1]["source"]
    assert links == 'On the scoreboard: <a href="../scoreboard.html#B01">B01</a>.'


def test_an_interactive_figure_becomes_a_part_of_the_page():
    pictures = np.zeros((1, 2, 8, 8, 3), np.uint8)
    shown = picture_series(pictures, ["</script>"], ["a", "b"], "dose", "By dose")
    source = notebook()
    source["cells"].append(cell("more", "shown", {"data": shown._repr_mimebundle_()}))
    page = arranged(source, answered())
    code, block = page["cells"][-2:]
    assert code["outputs"] == [] and block["cell_type"] == "markdown"
    assert 'data-kind="series"' in block["source"] and 'aria-label="By dose"' in block["source"]
    assert block["source"].count("</script>") == 1


def test_jupyter_and_colab_show_a_line_of_text_in_place_of_an_interactive_figure():
    pictures = np.zeros((1, 2, 8, 8, 3), np.uint8)
    bundle = picture_series(pictures, ["one"], ["a", "b"], "dose", "By dose")._repr_mimebundle_()
    assert bundle["text/plain"] == "(interactive in the book: By dose)"
    assert set(bundle) == {MIME, "text/plain"}


def test_atlases_stay_light_for_pictures_of_512_pixels_that_hardly_compress():
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 512, 512, 3), dtype=np.uint8)
    about = picture_series(noise, list("ab"), list("123456789"), "t", "Noise").about
    assert len(about["atlas"]) <= LARGEST and about["size"] == [128, 128]


def test_maps_say_the_share_of_each_word_in_each_step():
    maps = np.full((1, 2, 3, 16, 16), 0.1)
    maps[0, 1, 2, :8] = 0.5
    about = word_maps(
        np.zeros((1, 8, 8, 3), np.uint8), maps, [["BOS", "toy", "EOS"]], ["arm"], [1, 5], 5, "Maps"
    ).about
    assert about["shares"] == [[[0.1, 0.1, 0.1], [0.1, 0.1, 0.3]]]
    assert about["steps"] == [1, 5] and about["mapSize"] == 16
