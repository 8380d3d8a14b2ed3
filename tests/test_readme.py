"""The README, and the numbers of docs/measured.md beside those of pages and index."""

import html
import re
import shlex
from pathlib import Path

import pytest
from checkout import REPO
from committed_report import committed
from sweep_builder import row, write

from moe_lab import cli, runs
from moe_lab.analysis import leads, roofs, sweep
from moe_lab.pages import load, readme_docs
from moe_lab.pages import readme as tables
from moe_lab.pages.show import notes
from moe_lab.pages.show.findings import number
from moe_lab.pages.show.tables import rounded
from moe_lab.runs import bench_runs

README = (REPO / "README.md").read_text()
MEASURED = (REPO / "docs" / "measured.md").read_text()
SHOWN = re.findall(r"^    (.+)$", README, re.M)


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= 75
    assert README.count("![") == 1


@pytest.mark.usefixtures("without_profiler")
def test_commands_of_the_readme_are_there_and_understood() -> None:
    for line in SHOWN:
        words = shlex.split(line, comments=True)
        if words[0] == "moe-lab":
            arguments = cli._parser(words[1:]).parse_args(words[1:])
            assert arguments.command in ("capture", "view")
        else:
            assert words[0] == "pip" or (REPO / words[0]).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_readme_links_lead_somewhere(target: str) -> None:
    assert (REPO / target).exists()


def plain(path: Path) -> str:
    """Return what a page says, without its scripts and styles, each run of spaces as one."""
    text = re.sub(r"<(script|style).*?</\1>", "", path.read_text(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_pages_index_and_docs_give_the_same_number_for_the_same_quantity(tmp_path: Path) -> None:
    done = committed(tmp_path, ["02", "03", "04", "06"])
    sweep_page, counters_page, align_page, tuning_page = (plain(page.html) for page in done.pages)
    index = plain(done.index)
    found = leads.leads(sweep.at(load.experts_bench("h200/experts_qwen3_sweep"), ""), "auto")
    mean = f"{number(sweep.geometric_mean(found['speedup']))} times as fast on the geometric mean"
    assert mean in sweep_page
    assert mean in index, "the card quotes the headline"
    low, high = (found.loc[i] for i in (found["speedup"].idxmin(), found["speedup"].idxmax()))
    for end in (low, high):
        said = f"{number(end['speedup'])} at M = {end['M']:,} (best peer at this M: {end['peer']})"
        assert said in sweep_page
        line = next(row for row in MEASURED.splitlines() if row.startswith(f"| {end['M']} |") and end["peer"] in row)
        assert f"| {end['speedup']:.2f}" in line
    for name in ("experts_deepseek_v3", "experts_gpt-oss-120b", "experts_mixtral-8x7b"):
        rows = sweep.at(load.experts_bench(f"h200/{name}"), "")
        own = leads.leads(rows, "auto")["speedup"]
        mean = number(sweep.geometric_mean(own))
        assert f"{mean} times as fast on the geometric mean ({rows['model'].iloc[0]}" in sweep_page
        (line,) = [row for row in MEASURED.splitlines() if row.startswith(f"| {rows['model'].iloc[0]}, H200 |")]
        assert {f"{value:.2f}" for value in own} == set(re.findall(r"\d\.\d\d", line))
    for roof in roofs.of_gpu("NVIDIA H200", runs.list_runs()).to_dict("records"):
        label, unit = notes.ROOFS[roof["kind"]]
        row = f"{label} {rounded(roof['value'] / 1e12, 2)} {unit}"
        assert all(row in page for page in (sweep_page, counters_page, align_page, tuning_page)), row
        digits = 0 if unit.startswith("TFLOP") else 2
        assert f"{roof['value'] / 1e12:.{digits}f} {unit.partition(',')[0]}" in MEASURED


def test_readme_tables_name_each_runs_releases_and_every_size_at_which_ours_is_not_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours takes 50 us, the peer 40 at M = 1, 100 at 16 and 51 within the spread at 256."""
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    rows = [row("auto", M, 50.0) for M in (1, 16, 256)]
    rows += [row("triton_kernels", M, us) for M, us in ((1, 40.0), (16, 100.0), (256, 51.0))]
    versions = {"auto": None, "triton_kernels": {"version": "vllm-9.8.7"}, "vllm_triton": {"version": "9.8.6"}}
    path = write(tmp_path / "a.json", rows, settings={"releases": versions | {"torch_grouped": None}})
    bench_runs.import_bench([path], "h100/sweep", root=tmp_path)
    (said,) = tables.releases("sweep").splitlines()
    assert "`triton_kernels` of vLLM 9.8.7's wheel, `vllm_triton` of vLLM 9.8.6 and `torch_grouped` of PyTorch" in said
    assert "auto" not in said
    said = tables.not_ahead(["sweep", "none"])
    assert said.startswith("Ahead of the best peer at 1 of 3 sizes; not so: ")
    assert "at M = 1: behind, 0.80 times as fast as `triton_kernels`; " in said
    assert "at M = 256: even, 1.02 times as fast as `triton_kernels`." in said
    assert "M = 16" not in said


def test_figures_of_the_readme_are_those_that_the_script_makes() -> None:
    made = readme_docs.figures()
    assert {path.stem for path in (REPO / "docs" / "figures").glob("*.png")} == set(made)
    assert all(len(figure.data) > 1 for figure in made.values())
