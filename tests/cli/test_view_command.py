"""``moe-lab view``: which page a run gets."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkout import DATA, REPO

from moe_lab import cli, report
from moe_lab.cli import view


@pytest.fixture
def built(monkeypatch):
    """What would be built instead of running a notebook."""
    given = []

    def build(notebooks, *, out, parameters, single_file):
        given.append((*notebooks, parameters))
        return SimpleNamespace(pages=[SimpleNamespace(failed=None, html=out / "page.html")])

    monkeypatch.setattr(report, "build", build)
    monkeypatch.chdir(REPO)
    return given


@pytest.mark.parametrize(
    ("run", "notebook", "parameter"),
    [
        ("h200/qwen3-30b-a3b_decode_b16_ctx2048", "00_any_report", "run"),
        ("h100/experts_qwen3_int8", "02_m_sweep", "sweep_run"),
        ("h100/ep_bf16", "08_expert_parallel", "bench_runs"),
        ("static/h100_counters_fp8", "10_static", "static_run"),
        ("h100/experts_counters_fp8", "03_kernel_counters", "counter_runs"),
        (str(DATA.resolve() / "rocprof-compute" / "MI300X_A1"), "05_rocprof_compute", "folders"),
    ],
)
def test_a_run_gets_the_page_that_is_about_what_it_holds(run, notebook, parameter, built):
    if Path(run).is_absolute() and not Path(run).is_dir():
        pytest.skip("real captures are not here")
    assert cli.main(["view", run]) == 0
    ((name, parameters),) = built
    assert (name, parameters[parameter]) in [(notebook, run), (notebook, [run])]


def test_counters_that_no_page_is_about_are_refused(built, capsys):
    assert cli.main(["view", "h200/align_counters"]) == 2
    assert "`moe-lab counters` prints those of any kernel" in capsys.readouterr().err
    assert not built


def test_pages_have_the_parameters_that_they_are_given():
    for notebook, parameters in [view.TRACE, *view.PAGES.values()]:
        cells = json.loads((REPO / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
        (stated,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
        assert all(f"\n{name} = " in f"\n{stated}" for name in parameters), notebook
