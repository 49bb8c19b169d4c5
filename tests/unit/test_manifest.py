"""The manifest: every data file is listed with hash, licence and source."""

import subprocess
from hashlib import sha256

import pytest
import yaml

from t2i_lens.base.paths import DATA, ROOT
from t2i_lens.study.manifest import main, update, verify

RULES = [
    {"folder": ".", "licence": "ours", "source": "written here"},
    {"folder": "models", "licence": "ours", "source": "trained here"},
    {"folder": "models/foreign", "licence": "MIT", "source": "elsewhere@abc"},
]


@pytest.fixture
def root(tmp_path):
    for name in ("a.yaml", "models/b.bin", "models/foreign/deep/c.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    update(tmp_path, RULES)
    return tmp_path


def groups(root):
    return {g["folder"]: g for g in yaml.safe_load((root / "manifest.yaml").read_text())}


def test_every_data_file_is_listed_and_unchanged():
    assert verify() == []


def test_every_file_that_git_tracks_below_data_is_listed():
    listed = {path for group in groups(DATA).values() for path in group["files"]}
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--", "data"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        wanted = {path.removeprefix("data/") for path in done.stdout.splitlines()}
    else:  # an exported copy holds what git tracks, and nothing else
        wanted = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    assert wanted and wanted - {"manifest.yaml"} - listed == set()


def test_a_fresh_manifest_has_no_problems(root):
    assert verify(root) == []


def test_a_file_belongs_to_the_group_with_the_longest_folder(root):
    found = {folder: list(group["files"]) for folder, group in groups(root).items()}
    assert found == {
        ".": ["a.yaml"],
        "models": ["models/b.bin"],
        "models/foreign": ["models/foreign/deep/c.bin"],
    }


def test_a_hash_is_that_of_the_content(root):
    assert groups(root)["."]["files"]["a.yaml"] == sha256(b"content of a.yaml").hexdigest()


def test_one_changed_byte_is_reported(root):
    path = root / "models" / "b.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert verify(root) == ["models/b.bin was changed; restore it, or run update if it was meant"]


def test_a_new_file_is_reported_until_updated(root):
    (root / "new.yaml").write_text("new")
    assert verify(root) == ["new.yaml is not in manifest.yaml; run update"]
    update(root)
    assert verify(root) == []


def test_a_missing_file_is_reported_until_updated(root):
    (root / "a.yaml").unlink()
    (problem,) = verify(root)
    assert problem.startswith("a.yaml is in manifest.yaml but missing")
    update(root)
    assert verify(root) == []


def test_a_group_without_a_licence_is_reported(root):
    update(root, [RULES[0], RULES[1] | {"licence": ""}, RULES[2]])
    assert verify(root) == ["group 'models' has no licence in manifest.yaml"]


def test_a_file_in_a_folder_without_a_group_stops_the_update_and_keeps_the_manifest(root):
    before = (root / "manifest.yaml").read_text()
    (root / "fonts").mkdir()
    (root / "fonts" / "d.ttf").write_text("font")
    with pytest.raises(ValueError, match="no group in manifest.yaml for fonts/d.ttf"):
        update(root)
    assert (root / "manifest.yaml").read_text() == before


def test_hidden_files_are_left_out(root):
    (root / ".DS_Store").write_text("junk")
    assert verify(root) == []


def test_updating_twice_changes_nothing(root):
    before = (root / "manifest.yaml").read_text()
    update(root)
    assert (root / "manifest.yaml").read_text() == before


def test_the_command_says_what_it_can_do(capsys):
    assert main(["check"]) == 2
    assert "update|verify" in capsys.readouterr().err
