"""One list of dependencies: ranges for users, exact pins for this repository, and they agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2i_lens.paths import ROOT

LOCKS = ("requirements.lock", "requirements-no-deps.lock")


def locked() -> dict[str, str]:
    pins = {}
    for lock in LOCKS:
        for line in (ROOT / "lib" / lock).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line:
                assert re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", line), f"{lock}: {line}"
                name, version = line.split("==")
                assert canonicalize_name(name) not in pins, f"{name} is locked twice"
                pins[canonicalize_name(name)] = version
    return pins


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for group in [project["dependencies"], *extras] for text in group]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_every_declared_range_holds_the_locked_version(requirement):
    pins = locked()
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{name} is not in the lock"
    assert requirement.specifier.contains(pins[name]), f"{requirement} does not hold {pins[name]}"


def test_a_hosted_runtime_keeps_its_own_torch_numpy_and_pandas():
    for requirement in declared():
        if requirement.name in ("torch", "numpy", "pandas"):
            assert {s.operator for s in requirement.specifier} <= {">="}, requirement


def test_the_packages_that_the_study_names_are_locked():
    named = "jupyter-book torch diffusers transformers seaborn scikit-learn papermill daam"
    assert set(named.split()) <= set(locked())


def test_the_conda_environment_takes_its_pins_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "-r lib/requirements.lock" in pip
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert all(re.fullmatch(r"python>=3\.11|pip", entry) for entry in plain), plain


def test_daam_is_installed_and_traces():
    import daam

    assert callable(daam.trace)
