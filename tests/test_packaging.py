"""pyproject.toml, environment.yml, the pins and the scripts say the same."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from checkout import REPO
from packaging.requirements import Requirement
from packaging.version import Version

import moe_lab


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


def test_version_changelog_and_citation_name_the_same_release() -> None:
    dated = re.search(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", (REPO / "CHANGELOG.md").read_text(), re.M)
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert dated
    assert (cited["version"], str(cited["date-released"])) == dated.groups()
    assert dated[1] == moe_lab.__version__
    assert cited["license"] == pyproject()["project"]["license"]
    assert cited["repository-code"] == pyproject()["project"]["urls"]["Repository"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel puts into site-packages."""
    pytest.importorskip("hatch_fancy_pypi_readme", reason="building the wheel needs the extra dev")
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_a_wheel_brings_the_notebooks_and_the_runs_that_they_show(installed: Path, tmp_path: Path) -> None:
    code = """
import json, moe_lab
from moe_lab import runs
from moe_lab.report import notebooks
names = [run.manifest["name"] for run in runs.list_runs()]
print(json.dumps([moe_lab.__file__, [path.stem for path in notebooks.find(None)], names]))
"""
    (own := tmp_path / "profiles" / "h100" / "align_sweep").mkdir(parents=True)
    (own / "run.json").write_text('{"schema": 1, "name": "h100/mine"}')  # hides the one of the wheel
    env = {**os.environ, "PYTHONPATH": str(installed)}
    env.pop("MOE_LAB_PROFILES", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    file, found, names = json.loads(done.stdout)
    assert Path(file).is_relative_to(installed)
    assert found == sorted(path.stem for path in (REPO / "notebooks").glob("*.ipynb"))
    committed = {path.parent.relative_to(REPO / "profiles").as_posix() for path in REPO.glob("profiles/*/*/run.json")}
    assert set(names) == committed - {"h100/align_sweep"} | {"h100/mine"}


def test_the_readme_on_pypi_names_no_file_beside_it(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    links = re.findall(r"\]\(([^)]+)\)", metadata.read_text())
    assert links
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    assert re.search(r"!\[[^\]]+\]\(https://\S+/docs/figures/\w+\.png\)", metadata.read_text())


def test_every_source_file_states_its_licence() -> None:
    sources = [
        p for top in ("moe_lab", "examples") for kind in ("py", "cu", "cuh") for p in (REPO / top).rglob(f"*.{kind}")
    ]
    assert len(sources) > 400
    assert not [p for p in sources if "SPDX-License-Identifier: Apache-2.0" not in p.read_text().partition("\n")[0]]
