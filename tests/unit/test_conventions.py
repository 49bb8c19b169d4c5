"""What all notebooks and modules have in common."""

import ast
import json
import re
import tomllib

import pytest
import yaml

from t2i_lens.base.paths import ROOT
from t2i_lens.study.answers import answer
from t2i_lens.study.book import RECORDED, toc
from t2i_lens.study.claims import load_claims, load_records
from t2i_lens.study.execute import NOTEBOOKS
from t2i_lens.study.parameters import declared

CLAIMS = load_claims()
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
LONGEST_CELL = 20  # lines, imports apart
# Chapters that open the model in a live cell.
MECHANISMS = (
    "04", "06", "07", "08", "10", "11", "12", "13", "15", "16", "17", "18", "19", "20", "22", "25",
    "26", "27", "28", "29", "30", "31",
)  # fmt: skip
IMPORTS = ("import ", "from ")


def cells(file, kind=None):
    found = json.loads(file.read_text())["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell) -> str:
    return "".join(cell["source"])


def tagged(file, tag):
    return [cell for cell in cells(file, "code") if tag in cell["metadata"].get("tags", [])]


each_notebook = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_the_table_of_contents_lists_exactly_the_notebooks():
    assert sorted(toc()) == [file.stem for file in FILES]


@each_notebook
def test_a_notebook_has_one_parameters_cell_of_typed_commented_scalars(file):
    (cell,) = tagged(file, "parameters")
    for line in source(cell).splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool) = \S+.*  # \S.*", line), line


@each_notebook
def test_every_number_among_the_parameters_has_a_range_that_holds_its_value(file):
    (cell,) = tagged(file, "parameters")
    for name, parameter in declared(file).items():
        if parameter.kind in ("int", "float"):
            assert parameter.ends is not None, name
        value = ast.literal_eval(re.search(rf"^{name}: \w+ = (.+?)  #", source(cell), re.M)[1])
        assert parameter.refusal(value) is None, name


@each_notebook
def test_a_notebook_carries_no_outputs(file):
    for cell in cells(file, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


@each_notebook
def test_the_setup_cell_is_the_same_everywhere(file):
    assert source(cells(file, "code")[0]) == source(cells(FILES[0], "code")[0])


@each_notebook
def test_a_notebook_opens_in_colab_at_the_tag_of_its_setup(file):
    (tag,) = set(re.findall(r'"(v[\d.]+)"', source(cells(file, "code")[0])))
    assert f"/blob/{tag}/notebooks/{file.name}" in source(cells(file)[0])


def test_notebooks_package_and_book_name_the_same_release():
    package = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]
    book = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())
    theme = book["sphinx"]["config"]["html_theme_options"]
    (tag,) = set(re.findall(r'"(v[\d.]+)"', source(cells(FILES[0], "code")[0])))
    branches = {book["repository"]["branch"], theme["repository_branch"]}
    assert branches == {tag} == {f"v{package['version']}"}


@each_notebook
def test_the_answer_of_a_notebook_fits_its_claims_and_figures(file):
    notebook = json.loads(file.read_text())
    found = answer(file.stem, notebook, CLAIMS, load_records(RECORDED / "toybox"))
    assert found.claim.chapter == file.stem and found.title.endswith("?")
    assert found.figure and re.search(r"[.!]$", found.sentence)


@each_notebook
def test_a_notebook_records_every_claim_of_its_chapter(file):
    code = "\n".join(source(cell) for cell in cells(file, "code"))
    owed = {claim.id for claim in CLAIMS.values() if claim.chapter == file.stem}
    assert owed and [id for id in owed if f'"{id}"' not in code] == []


@each_notebook
def test_a_notebook_gives_each_claim_the_control_that_it_names(file):
    code = "\n".join(source(cell) for cell in tagged(file, "claims"))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func) == "run.claim"]
    assert calls
    for call in calls:
        given = {keyword.arg for keyword in call.keywords}
        if isinstance(call.args[0], ast.Constant) and "reason" not in given:
            id = call.args[0].value
            assert ("control" in given) == (CLAIMS[id].control.alone is None), id


@each_notebook
def test_every_figure_has_a_name_a_caption_and_a_text_for_the_blind(file):
    number = file.stem.split("_")[0]
    figures = [c for c in cells(file, "code") if "figure" in c["metadata"].get("mystnb", {})]
    assert figures
    for cell in figures:
        about = cell["metadata"]["mystnb"]
        assert re.fullmatch(rf"fig-{number}-[a-z-]+", about["figure"]["name"])
        assert len(about["figure"]["caption"]) > 20 and about["image"]["alt"]


@each_notebook
def test_cells_are_short(file):
    for cell in cells(file, "code"):
        imports = [
            n for n in ast.parse(source(cell)).body if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        others = len(source(cell).splitlines()) - sum(n.end_lineno - n.lineno + 1 for n in imports)
        assert others <= LONGEST_CELL, cell["id"]


@each_notebook
def test_prose_holds_no_typed_measurement(file):
    for cell in cells(file, "markdown"):
        text = re.sub(
            r"\$\$.*?\$\$|\$[^$]*\$|\(https?[^)]*\)|`[^`]*`", "", source(cell), flags=re.S
        )
        assert not re.search(r"(?<![\w.])\d+\.\d+(?![\w.])", text), cell["id"]


@pytest.mark.parametrize("chapter", MECHANISMS)
def test_a_chapter_of_a_mechanism_takes_one_number_from_a_live_array_in_ten_lines(chapter):
    (file,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    (cell,) = (cell for cell in cells(file, "code") if cell["id"] == "instrument")
    lines = source(cell).strip().splitlines()
    assert "t2i_lens.probes" in "".join(source(cell) for cell in cells(file, "code"))
    assert len([line for line in lines if line and not line.startswith(IMPORTS)]) <= 10
    assert re.search(r"print\(dict\(\w+\.sizes\)", source(cell)) and lines[-1].startswith("print(")


@each_notebook
def test_a_notebook_ends_with_finish(file):
    assert source(cells(file, "code")[-1]).strip() == "run.finish()"


def test_every_module_is_in_a_sub_package_whose_init_is_empty():
    package = ROOT / "lib" / "t2i_lens"
    assert [file.name for file in package.glob("*.py")] == ["__init__.py"]
    assert not any(file.read_text() for file in package.rglob("__init__.py"))


def test_what_a_docstring_is_shown_in_is_there():
    shown = []
    for module in (ROOT / "lib" / "t2i_lens").rglob("*.py"):
        shown += re.findall(r"Shown in: ([\w/.]+\.\w+)", module.read_text())
    assert len(shown) > 20
    assert [name for name in dict.fromkeys(shown) if not (ROOT / name).exists()] == []


def test_every_module_says_what_it_is_for():
    for module in (ROOT / "lib" / "t2i_lens").rglob("*.py"):
        text = module.read_text()
        assert not text or text.startswith('"""'), module.name
