"""pyproject.toml, environment.yml, the pins and the scripts say the same."""

import re
import subprocess
import sys

import pytest
import yaml
from checkout import REPO
from packaging.requirements import Requirement
from packaging.version import Version


def pyproject() -> dict:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml on Python 3.10 needs tomli")
    return tomllib.loads((REPO / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    project = pyproject()["project"]
    texts = [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]
    return [Requirement(t) for t in texts]


def pins() -> dict[str, set[Version]]:
    found: dict[str, set[Version]] = {}
    for line in (REPO / "constraints.txt").read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line)
        if match:
            found.setdefault(match.group(1).lower(), set()).add(Version(match.group(2)))
    return found


def test_conda_environment_installs_the_package_with_its_pins_and_python_range() -> None:
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert python.removeprefix("python") == pyproject()["project"]["requires-python"]
    assert pip == ["--constraint constraints.txt", "--editable ."]


def test_every_dependency_is_pinned_inside_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        assert pinned.get(requirement.name.lower()), f"{requirement.name} has no pin; see CONTRIBUTING.md"
        for version in pinned[requirement.name.lower()]:
            assert version in requirement.specifier, f"{requirement.name}=={version} is outside {requirement.specifier}"


def test_report_environment_does_not_need_torch() -> None:
    names = {Requirement(t).name for t in pyproject()["project"]["dependencies"]}
    assert not names & {"torch", "triton", "nvtx"}


@pytest.mark.parametrize("extra_name", ["torch", "triton"])
def test_gpu_ranges_cover_the_promised_versions(extra_name: str) -> None:
    promised = {"torch": ["2.8.0", "2.11.0", "2.15.0"], "triton": ["3.4.0", "3.6.0", "3.9.0"]}[extra_name]
    gpu = {Requirement(t).name: Requirement(t) for t in pyproject()["project"]["optional-dependencies"]["gpu"]}
    assert all(version in gpu[extra_name].specifier for version in promised)


@pytest.mark.parametrize("script", ["report", "test", "_environment"])
def test_scripts_are_valid_shell(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(REPO / "scripts" / script)]).returncode == 0


def test_pre_commit_pins_match_the_constraints() -> None:
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"].rsplit("/", 1)[-1]: repo["rev"].removeprefix("v") for repo in config["repos"]}
    pinned = pins()
    assert Version(revisions["ruff-pre-commit"]) in pinned["ruff"]
    assert Version(revisions["nbstripout"]) in pinned["nbstripout"]
