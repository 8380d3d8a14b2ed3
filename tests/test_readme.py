"""Every command that the README shows runs, or at least is understood where it needs a GPU."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moe_lab import cli

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()
SHOWN = [line.strip().split("  # ")[0].strip() for line in README.splitlines() if line.startswith("    ")]
CAPTURES = [c for c in SHOWN if c.startswith("moe-lab capture")]
GRID = "\n".join(line.strip() for line in README.splitlines() if re.match(r"    \w+: \[", line))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shown command in a folder that holds the checkout's notebooks and profiles."""
    argv = shlex.split(command)
    tool = argv[0].removeprefix(".venv/bin/")
    argv[0] = str(Path(sys.executable).with_name(tool))
    if not Path(argv[0]).exists():
        argv[0] = shutil.which(tool) or tool
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("notebooks", "profiles"):
        shutil.copytree(REPO / name, folder / name)
    (folder / "grid.yaml").write_text(GRID)
    return folder


def test_readme_batch_commands_run_in_the_order_shown(checkout: Path) -> None:
    shown = [c for c in SHOWN if c.startswith(("moe-lab report", "papermill", "jupyter nbconvert"))]
    assert len(shown) == 4
    for command in shown:
        done = run(command.replace("/tmp/prefill_only", "prefill_only"), checkout)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert "<svg" in (checkout / "prefill_only" / "index.html").read_text()
    assert len(list((checkout / "reports").glob("01_*.html"))) == 4
    assert "plotly" in (checkout / "out.html").read_text()


def test_readme_opens_jupyter_lab_from_the_same_environment() -> None:
    (command,) = [c for c in SHOWN if "jupyter lab" in c]
    done = run(command.replace("notebooks/", "--version"), REPO)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", CAPTURES, ids=range(len(CAPTURES)))
def test_readme_capture_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def capture(workload: list[str], name: str, **options: object) -> object:
        asked.update(workload=workload, name=name)
        return type("Run", (), {"path": tmp_path})()

    tool = shlex.split(command)[2]
    monkeypatch.setattr(f"moe_lab.capture.{tool}.capture", capture)
    assert cli.main(shlex.split(command)[1:]) == 0
    assert asked["workload"][:2] == ["python", "-m"]
    assert asked["name"] in command


def test_readme_workload_command_is_understood() -> None:
    workload = pytest.importorskip("moe_lab.workload", reason="needs the gpu extra", exc_type=ImportError)
    (command,) = [c for c in CAPTURES if "moe_lab.workload" in c]
    options = workload.parser().parse_args(shlex.split(command.split("moe_lab.workload", 1)[1]))
    assert options.phase == "prefill"


def test_readme_names_every_notebook_and_every_command() -> None:
    for notebook in (REPO / "notebooks").glob("*.ipynb"):
        assert f"[{notebook.stem}](notebooks/{notebook.name})" in README
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    done = subprocess.run([sys.executable, "-m", "moe_lab", "--help"], capture_output=True, text=True)
    for command in re.findall(r"^    ([a-z]+) {2,}", done.stdout, re.MULTILINE):
        assert f"`moe-lab {command}" in README, f"README does not show moe-lab {command}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_readme_links_lead_somewhere(target: str) -> None:
    assert (REPO / target).exists()
