"""A re-runner changes `profile` to a real checkpoint, and every chapter that says so runs on it.

The Hub is a cache with tiny models of the real classes under the real names and commits; nothing
else is replaced but the length of training: commands, notebooks, files and claims are a user's.
"""

import html
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_hub import PUBLIC, WIDTH, make_hub

from t2i_lens.base.paths import DATA, ROOT
from t2i_lens.inversion.concept_library import public_tokens
from t2i_lens.study.claims import load_claims
from t2i_lens.study.manifest import NAME
from t2i_lens.study.support import load_support

pytestmark = pytest.mark.notebooks

PROFILE = "sd15"
CONCEPTS = ("cat_toy", "blue_cat", "blue_rabbit", "bus", "tiger", "blueprint")
# As few of everything as the statistics bear.
FEW = {
    "01_hero": {"seeds": 2, "concept_prompts": 2},
    "02_norms": {},
    "03_cosine_pca": {"sample": 100, "subsets": 20, "group_draws": 50},
    "04_attention_dominance": {"hero_prompts": 2, "seeds": 2, "concept_steps": 2},
    "05_norm_scale": {"hero_prompts": 2},
    "06_clip_attention": {"random_rows": 20},
    "07_bos_slerp": {"text_prompts": 3, "hero_prompts": 2, "more_prompts": 1, "directions": 2},
    "08_first_layer": {"random_rows": 20, "vocabulary_sample": 40, "probe_tokens": 60},
    "09_norm_growth": {"prompts_each": 2, "live_steps": 3},
    "10_destruction": {"prompts_each": 2, "template_prompts": 2},
    "11_correlation": {"prompts_per_set": 4, "shuffles": 50},
    "12_text_self_attention": {"prompts_per_set": 8, "random_choices": 20, "key_prompts": 6},
    "15_ti_lens": {"prompts": 2},
}
STEPS = {"11_correlation": 4, "12_text_self_attention": 3}
WITHOUT_STEPS = ("02_norms", "03_cosine_pca", "06_clip_attention", "08_first_layer")
MODELS = {  # by profile: what a run says that it measured
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",
}
SUPPORT = load_support()
CASES = [(name, p) for name in FEW for p in MODELS if p in SUPPORT[name]["profiles"]]

# The command itself, with a recipe that takes no time.
TRAIN = """
import sys
from dataclasses import replace
from t2i_lens.inversion import training_plan
from t2i_lens.study import cli
if __name__ == "__main__":
    recipe = training_plan.recipe("sd15")
    training_plan.RECIPES["sd15"] = replace(recipe, steps=10, record_every=1, batch_size=1)
    training_plan.TOGETHER["sd15"] = 12
    cli.main()
"""
EXECUTE = """
import json, sys
from rich.console import Console
from t2i_lens.study import execute
if __name__ == "__main__":
    jobs = [execute.trial(execute.find(name), p) for name, p in json.loads(sys.argv[1])]
    execute.execute(jobs, Console(stderr=True))
    print(json.dumps([str(job.target) for job in jobs]))
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory, make_pipe):
    """Runs python as somebody whose cache holds Stable Diffusion, without a network."""
    home = tmp_path_factory.mktemp("user")
    make_hub(home, make_pipe("kl"))
    environment = os.environ | {
        "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "T2I_LENS_BUILD": str(home / "build"),
        "T2I_LENS_ROOT": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200",
    }  # fmt: skip
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)

    def python(*arguments: str, **changed: Path) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=home,
            env=environment | {name: str(value) for name, value in changed.items()},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout

    python.home = home
    return python


@pytest.fixture(scope="module")
def measured(user):
    """Folder of each chapter's run, after tokens were trained, brought, and drawn at all doses."""
    script = user.home / "train.py"
    script.write_text(TRAIN)
    chosen = [option for name in CONCEPTS for option in ("--concept", name)]
    before = (DATA / NAME).stat()
    assert "runs to train: about" in user(str(script), "invert", "--profile", PROFILE, *chosen)
    rows = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.1
    safetensors.torch.save_file({"<brought>": rows}, user.home / "brought.safetensors")
    command = ["-m", "t2i_lens.study.cli"]
    user(*command, "embeddings", "add", "brought.safetensors", "--class-word", "dog")
    user(*command, "doses", "--profile", PROFILE, "--share", "0.4")
    # What is the user's is not the project's data.
    assert (DATA / NAME).stat().st_mtime_ns == before.st_mtime_ns
    script = user.home / "execute.py"
    script.write_text(EXECUTE)
    asked = []
    for name, profile in CASES:
        steps = {} if name in WITHOUT_STEPS else {"num_inference_steps": STEPS.get(name, 2)}
        asked.append((name, {"profile": profile, **FEW[name], **steps}))
    folders = json.loads(user(str(script), json.dumps(asked)).splitlines()[-1])
    return dict(zip(CASES, map(Path, folders), strict=True))


def test_every_chapter_that_says_it_runs_on_sd_is_tried():
    assert set(FEW) == {name for name, entry in SUPPORT.items() if PROFILE in entry["profiles"]}


@pytest.mark.parametrize(("chapter", "profile"), CASES)
def test_a_chapter_measures_its_claims_and_names_the_commit(measured, chapter, profile):
    folder = measured[chapter, profile]
    claims = json.loads((folder / "claims.json").read_text())
    owed = {claim.id for claim in load_claims().values() if claim.chapter == chapter}
    assert {claim["id"] for claim in claims} == owed
    assert {claim["profile"] for claim in claims} == {profile}
    run = json.loads((folder / "run.json").read_text())
    assert run["model"] == f"{MODELS[profile]}:float32" and run["pinned"]


@pytest.fixture(scope="module")
def visitor(user):
    """Output and folder of a run of somebody who changed `profile` and did nothing else."""
    script = user.home / "visit.py"
    script.write_text(EXECUTE)
    build = user.home / "visitor"
    out = user(str(script), json.dumps([("02_norms", {"profile": PROFILE})]), T2I_LENS_BUILD=build)
    return build, Path(json.loads(out.splitlines()[-1])[0])


def test_a_visitor_without_a_token_measures_the_listed_public_ones_by_their_commit(visitor):
    build, folder = visitor
    listed = public_tokens()
    notebook = json.loads((folder / "notebook.ipynb").read_text())
    said = "".join(
        "".join(output["text"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )
    assert f"fetching {len(listed.tokens)} public ones, about 45 kB" in said
    files = sorted((build / "embeddings" / PROFILE).glob("*/provenance.json"))
    brought = [json.loads(file.read_text()) for file in files]
    assert {b["source"] for b in brought} == {f"{t.id}@{PUBLIC}" for t in listed.tokens}
    (hero,) = [b["concept"] for b in brought if b["concept"]["hero"]]
    assert (hero["placeholder_token"], hero["superclass"]) == ("<cat-toy>", "toy")
    claims = json.loads((folder / "claims.json").read_text())
    assert {claim["id"] for claim in claims} == {"B06", "B07", "B08"}


def test_a_listed_token_is_added_by_its_id_alone(user):
    build = user.home / "adds"
    command = ("-m", "t2i_lens.study.cli", "embeddings", "add", "sd-concepts-library/cat-toy")
    added = Path(user(*command, T2I_LENS_BUILD=build).strip())
    assert added == build / "embeddings" / PROFILE / "cat_toy"
    assert json.loads((added / "provenance.json").read_text())["concept"]["superclass"] == "toy"


def test_a_token_that_was_brought_is_measured_beside_those_trained(measured):
    notebook = json.loads((measured["02_norms", PROFILE] / "notebook.ipynb").read_text())
    glued = {
        output["metadata"]["scrapbook"]["name"]: output["data"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "scrapbook" in output.get("metadata", {})
    }
    assert glued["tokens"] == {"application/papermill.record/text/plain": str(len(CONCEPTS) + 1)}


def test_the_clinic_writes_a_page_and_a_file_for_a_token_of_sd(user):
    rows = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1)) * 0.1
    safetensors.torch.save_file({"<ill>": rows}, user.home / "ill.safetensors")
    command = ("-m", "t2i_lens.study.cli", "clinic", "ill.safetensors", "--output", "visited")
    said = user(*command, "--profile", PROFILE, "--class-word", "dog")
    assert said.startswith("<ill> against 'dog': about")
    page = html.unescape((user.home / "visited" / "ill-better.html").read_text())
    assert "Advice" in page and said.splitlines()[-3] in page
    better = safetensors.torch.load_file(user.home / "visited" / "ill-better.safetensors")
    assert better["<ill>"].shape == (1, WIDTH)
