"""One list of dependencies: ranges for users, exact pins for this repository, and they agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2i_lens.base.paths import ROOT

LOCKS = ("requirements.lock", "requirements-no-deps.lock")
# The engine of sweeps is installed apart from all others.
APART = {"sweep": ("requirements-sweep.lock",)}


def locked(locks=LOCKS) -> dict[str, str]:
    pins = {}
    for lock in locks:
        for line in (ROOT / "lib" / lock).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line:
                assert re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", line), f"{lock}: {line}"
                name, version = line.split("==")
                assert canonicalize_name(name) not in pins, f"{name} is locked twice"
                pins[canonicalize_name(name)] = version
    return pins


def declared() -> list[tuple[str, Requirement]]:
    """Each requirement and the extra that it is of."""
    project = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"]} | project["optional-dependencies"]
    return [(extra, Requirement(text)) for extra, texts in groups.items() for text in texts]


@pytest.mark.parametrize(("extra", "requirement"), declared(), ids=lambda x: getattr(x, "name", x))
def test_every_declared_range_holds_the_locked_version(extra, requirement):
    pins = locked(APART.get(extra, LOCKS))
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{name} is not in the lock"
    assert requirement.specifier.contains(pins[name]), f"{requirement} does not hold {pins[name]}"


def test_a_hosted_runtime_keeps_its_own_torch_numpy_and_pandas():
    for _, requirement in declared():
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
