"""The pages of docs/: their commands run, or are understood where they need a GPU, and the site that they become."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rocprofv3_builder
import yaml
from checkout import DATA, REPO

from moe_lab import cli
from moe_lab.spec import plugins

PAGES = {path.stem: path.read_text() for path in sorted((REPO / "docs").glob("*.md"))}
COMMANDS = {page: re.findall(r"^    (.+)$", text, re.M) for page, text in PAGES.items()}
FOLLOWED = ["index", "vllm", "sglang", "my_model", "amd_folder", "two_releases"]
TASKS = (REPO / "examples" / "tasks.md").read_text()  # test_tasks.py follows those


def shown(page: str) -> list[list[str]]:
    """Return the words of each ``moe-lab`` command of a page that stands on a line of its own."""
    return [shlex.split(line)[1:] for line in COMMANDS[page] if line.startswith("moe-lab ")]


@pytest.fixture
def folders(project: Path) -> None:
    """What an AMD machine made; the folder of counters only where a real one is."""
    made = {"markers": rocprofv3_builder.MARKERS, "calls": rocprofv3_builder.CALLS}
    rocprofv3_builder.write(project / "traces" / "moe", kernels=rocprofv3_builder.KERNELS, **made)
    real = DATA / "rocprof-compute" / "MI300X_A1"
    if real.is_dir():
        shutil.copytree(real, project / "workloads" / "vcopy" / "MI300X_A1", dirs_exist_ok=True)


@pytest.mark.usefixtures("without_profiler", "folders")
@pytest.mark.parametrize("page", FOLLOWED)
def test_commands_of_a_tutorial_run_in_the_order_shown(page, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert shown(page)
    for words in shown(page):
        elsewhere = f"    moe-lab {shlex.join(words)}\n" in TASKS or words[0] in ("view", "bench", "peers")
        if elsewhere and "--perfetto" not in words:  # followed there, a page as in the tasks, or needs GPU and network
            cli._parser(words).parse_args(words)
        elif "workloads/vcopy/MI300X_A1" not in words or (project / "workloads").is_dir():
            allowed = {0, 1} if words[0] in ("doctor", "compare") else {0}
            assert cli.main(words) in allowed, f"{shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", sorted({*PAGES} - {*FOLLOWED, "my_kernel"}))
def test_commands_of_other_pages_are_understood(page):
    for words in shown(page):
        cli._parser(words).parse_args(words)


def test_the_workload_of_the_quick_start_is_understood():
    workload = pytest.importorskip("moe_lab.gpu.__main__", reason="needs the gpu extra", exc_type=ImportError)
    (words,) = [words for words in shown("index") if "moe_lab.gpu" in words]
    assert workload.parser().parse_args(words[words.index("moe_lab.gpu") + 1 :]).phase == "decode"


def test_batch_commands_of_the_notebooks_run_in_the_order_shown(project):
    lines = [line for line in COMMANDS["notebooks"] if line.startswith(("moe-lab", "papermill", "jupyter nbconvert"))]
    (project / "grid.yaml").write_text("\n".join(re.findall(r"^    (\w+: \[.*)$", PAGES["notebooks"], re.M)))
    assert len(lines) == 3
    for line in lines:
        tool, *words = shlex.split(line)
        beside = Path(sys.executable).with_name(tool)
        done = subprocess.run([str(beside if beside.exists() else tool), *words], cwd=project, capture_output=True)
        assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
    assert "<svg" in (project / "reports" / "index.html").read_text()
    assert len(list((project / "reports").glob("01_*.html"))) == 2
    assert "plotly" in (project / "out.html").read_text()


def test_jupyter_lab_opens_from_the_same_environment():
    (line,) = [line for line in COMMANDS["notebooks"] if "jupyter lab" in line]
    tool, *words = shlex.split(line.partition(" && ")[2].replace("notebooks/", "--version"))
    assert subprocess.run([Path(sys.executable).with_name(tool), *words], capture_output=True).returncode == 0


def test_my_model_opens_ranges_for_steps_modules_and_stages(opened_ranges, capsys):
    pytest.importorskip("torch", reason="needs the gpu extra")
    arguments = ["--device", "cpu", "--layers", "1", "--steps", "1", "--tokens", "4"]
    runpy.run_path(str(REPO / "examples" / "my_model.py"))["main"](arguments)
    names = [name for _, name in opened_ranges]
    step = names[names.index("step") :]
    assert [json.dumps(name)[1:25] for name in step[1:3]] == ["{'Module': 'model', 'Inp", "{'Module': 'model.0', 'I"]
    assert {"w13+act", "w2+combine"} <= set(step)
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["my_model"], re.S)
    opened_ranges.clear()
    exec(example, {})
    assert opened_ranges[0] == (0, "step")
    assert len(opened_ranges) == 4, "the model and its two modules"


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
            assert (REPO / "docs" / target).exists(), f"docs/{page}.md: {target}"


def test_references_name_every_command_notebook_and_backend():
    for name in plugins.names("cli"):
        assert f"\n## moe-lab {name.strip('_')}\n" in PAGES["commands"]
    for name in plugins.names("capture"):
        called = plugins.info("capture", name).get("called", name.replace("_", "-"))
        assert f"\n### moe-lab capture {called}\n" in PAGES["commands"]
    assert "| `--nsys-option OPTION` | another option for nsys profile |" in PAGES["commands"]
    for notebook in (REPO / "notebooks").glob("*.ipynb"):
        assert f"[{notebook.stem}](../notebooks/{notebook.name})" in PAGES["notebooks"]
    assert all(f"\n| `{name}` | " in PAGES["backends"] for kind in ("experts", "align") for name in plugins.names(kind))


def test_the_site_has_every_page_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    address = re.search(r"^repo_url: (.*)$", (REPO / "mkdocs.yml").read_text(), re.M)[1]
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert cited["repository-code"] == address
    for page in PAGES:
        html = (tmp_path / f"{page}.html").read_text()
        assert not re.findall(r"""<(?:script|img|iframe)[^>]*src="?http|<link[^>]*stylesheet[^>]*href="?http""", html)
        assert "[[[" not in html
        assert 'data-md-component="source"' not in html, "the theme would ask GitHub about the repository"
        assert not re.findall(r'href="\.\./', html), f"{page}: leads out of the site"
    assert f'href="{address}/blob/main/CONTRIBUTING.md"' in (tmp_path / "my_kernel.html").read_text()
