"""``import moe_lab``: its names, its objects, and the examples of docs/api.md."""

import re
import subprocess
import sys
from typing import Any

import pytest
from checkout import REPO

import moe_lab
from moe_lab.runs import Run

DOCS = (REPO / "docs" / "api.md").read_text()
DECODE = "h200/qwen3-30b-a3b_decode_b16_ctx2048"


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are those of the repository."""
    monkeypatch.setenv("MOE_LAB_PROFILES", str(REPO / "profiles"))


def test_import_is_light_and_every_public_name_is_there() -> None:
    code = (
        "import sys, moe_lab\n"
        "assert not {'pandas', 'numpy', 'msgspec'} & set(sys.modules)\n"
        "assert set(moe_lab.__all__) <= set(dir(moe_lab))\n"
        "assert all(getattr(moe_lab, name) is not None for name in moe_lab.__all__)\n"
        "assert not {'torch', 'triton'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        moe_lab.nonsense  # noqa: B018


def test_examples_of_the_docs_run_and_name_every_public_name(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(example, names)
    assert capsys.readouterr().out.startswith("There is no run or report 'h200/none'")
    ours: Any = names["ours"]
    assert (ours["mode"] == "graph").sum() >= 15, "every M that docs/measured.md shows of both GPUs"
    assert set(ours["backend"]) == {"auto"}
    assert all(name in DOCS for name in moe_lab.__all__ if name != "Loaded")


def test_example_of_the_readme_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert 4 <= len(example.splitlines()) <= 8
    exec(example, {})


def test_a_loaded_run_says_what_it_is_and_escapes_it() -> None:
    text = moe_lab.load(DECODE)._repr_html_()
    assert "NVIDIA H200" in text
    assert "qwen3-30b-a3b decode M=16 fused_moe" in text
    run = Run(REPO, {"name": "<script>", "gpu": {"name": "a&b"}})
    evil = moe_lab.Loaded(run)._repr_html_()
    assert "<script>" not in evil
    assert "&lt;script&gt;" in evil
    assert "a&amp;b" in evil


def test_a_benchmark_has_rows_and_a_capture_launches() -> None:
    bench = moe_lab.load("h200/align_sweep")
    assert moe_lab.load(bench) is bench
    assert len(bench.rows) == bench.run.manifest["rows"]["count"]
    with pytest.raises(moe_lab.UserError, match="is a benchmark: it has rows, but no launches"):
        bench.breakdown()
    with pytest.raises(moe_lab.UserError, match="is a capture, not a benchmark"):
        _ = moe_lab.load(DECODE).rows


def test_captures_are_compared_by_stage_and_their_total_is_the_root() -> None:
    same = moe_lab.compare(DECODE, DECODE)
    assert same.table["ratio"].tolist() == [1.0] * len(same.table)
    assert same.differences.empty
    prefill = moe_lab.compare(DECODE, "h200/qwen3-30b-a3b_prefill_b16x2048").table.set_index("stage")
    breakdown = moe_lab.breakdown(DECODE)
    assert prefill.loc["total", "time_a_us"] == pytest.approx(1e3 * breakdown["kernel_sum_ms"].iloc[0])
    w13 = breakdown.loc[breakdown["name"] == "w13", "kernel_sum_ms"].iloc[0]
    assert prefill.loc["w13", "time_a_us"] == pytest.approx(1e3 * w13)


def test_benchmarks_are_compared_by_the_cases_of_both() -> None:
    found = moe_lab.compare("h200/align_sweep", "h100/align_sweep")
    both = found.table[found.table["ratio"].notna()]
    a, b = (moe_lab.load(f"{gpu}/align_sweep").rows for gpu in ("h200", "h100"))
    row = both.iloc[7]
    medians = [float(r.loc[(r[found.keys] == row[found.keys]).all(axis=1), "median_us"].iloc[0]) for r in (a, b)]
    assert [row["time_a_us"], row["time_b_us"]] == medians
    assert row["ratio"] == pytest.approx(medians[1] / medians[0])


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (DECODE, "h200/align_sweep", "is a capture and h200/align_sweep is of the benchmark 'align'; give two runs"),
        ("h200/align_sweep", "h200/experts_qwen3_sweep", "'align' and .* 'experts'; give two runs of one kind"),
        ("h200/experts_qwen3_sweep", "h200/experts_mixtral-8x7b", "share no case"),
        ("h200/none", DECODE, "There is no run or report 'h200/none'"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(a: str, b: str, said: str) -> None:
    with pytest.raises(moe_lab.UserError, match=said):
        moe_lab.compare(a, b)
