import pandas as pd
import pytest

from moe_lab.analysis import support
from moe_lab.analysis.sweep import Sweep
from moe_lab.pages import load
from moe_lab.pages.backends import findings
from moe_lab.runs import Run
from moe_lab.spec import formats, plugins


def bench(gpu, rows):
    columns = ["backend", "format", "M", "part", "median_us", "error_rms_rel", "version", "error"]
    run = Run(None, {"name": "x", "gpu": {"name": gpu}})
    return Sweep(run, pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows]))


@pytest.fixture(scope="module")
def cells():
    """GIVEN rows of two GPUs and a failure WHEN they are joined to what plugins state."""
    h100 = bench(
        "NVIDIA H100 80GB HBM3",
        [
            ("hopper", "bf16", 1, "full", 9.0, 0.002, None, None),
            ("hopper", "bf16", 4096, "full", 9.0, 0.003, None, None),
            ("hopper", "bf16", 9000, "w13", 9.0, 0.9, None, None),
            ("vllm_triton@0.33.0", "fp8_token", 16, "full", 9.0, 0.04, "0.33.0", None),
            ("fused_moe", "int4_w4a16_g32", 16, "full", None, None, None, "wrong: by far"),
            ("fused_moe", "int4_w4a16", 64, "full", 9.0, 0.01, None, None),
            ("vllm_triton", "int8", 1, "full", None, None, None, "vllm_triton does not take int8 here, only: bf16."),
            ("mega_moe", "fp8_block", 1, "full", None, None, None, "RuntimeError: frame #30: _start + 0x25 (0x1 in x)"),
        ],
    )
    return support.matrix(None, [h100, bench("NVIDIA H200", [("hopper", "bf16", 8, "full", 9.0, 0.001, None, None)])])


def cell(cells, backend, format):
    return cells[(cells["backend"] == backend) & (cells["format"] == format)].iloc[0]


def test_a_cell_says_where_it_was_tried_at_which_m_and_with_which_error(cells):
    found = cell(cells, "hopper", "bf16")
    assert (found["tried_on"], found["tried_M"], found["error_worst"]) == ("H100, H200", "1 to 4,096", 0.003)
    assert cell(cells, "vllm_triton", "fp8_token")["releases"] == "0.33.0"
    assert pd.isna(cell(cells, "hopper", "fp16")["tried_on"])


def test_groups_of_int4_are_one_cell_that_counts_failures(cells):
    found = cell(cells, "fused_moe", "int4_w4a16")
    assert (found["tried_M"], found["rows_failed"], found["why_failed"]) == ("64 to 64", 1, "wrong: by far")
    assert not cells["format"].str.contains("_g32").any()
    assert cell(cells, "vllm_triton", "int8")["rows_failed"] == 0, "it did not take it then"
    why = cell(cells, "mega_moe", "fp8_block")["why_failed"]
    assert why == "RuntimeError, of which the run has no more than its stack"


def test_every_stated_format_of_every_backend_is_a_cell(cells):
    stated = {
        (name, formats.get(f).family or f)
        for name in plugins.names("experts")
        for f in plugins.info("experts", name)["formats"]
    }
    assert set(zip(cells["backend"], cells["format"], strict=True)) == stated


@pytest.mark.parametrize(
    ("backend", "format", "gpu", "said"),
    [
        ("torch_loop", "mxfp4", None, "works on the CPU"),
        ("fused_moe", "mxfp4", None, "needs a GPU"),
        ("fused_moe", "mxfp4", "NVIDIA A100-SXM4-80GB", "works"),
        ("fused_moe", "fp8_token", "NVIDIA A100-SXM4-80GB", "needs NVIDIA SM89+"),
        ("fused_moe", "fp8_token", "NVIDIA L40", "works"),
        ("grouped", "bf16", "NVIDIA A100-SXM4-80GB", "works"),
        ("torch_loop", "bf16", "NVIDIA GeForce", "not known: NVIDIA GeForce is not in spec/architectures.csv"),
    ],
)
def test_here_is_what_the_gpu_and_the_format_allow(backend, format, gpu, said):
    assert support.here(backend, format, gpu) == said


def test_a_format_may_need_another_gpu_than_its_backend():
    hardware = "NVIDIA SM90, SM100 (fp8_block: SM90)"
    assert [support.needs(hardware, f) for f in ("bf16", "fp8_block")] == ["NVIDIA SM90, SM100", "SM90"]


def test_the_grid_tells_tried_from_stated_from_not_taken(cells):
    grid = support.grid(cells).set_index("backend")
    assert grid.loc["hopper", ["bf16", "fp16", "fp8_token"]].tolist() == ["H100, H200", "stated", ""]


def test_kernels_of_engines_have_an_adapter_of_ours_or_a_reason_and_what_they_need(cells):
    table = support.elsewhere(cells)
    assert set(table["backend"]) - {""} <= {*plugins.names("experts"), *plugins.names("align")}
    without = table[table["backend"] == ""]
    assert (without[["why_not", "needed"]] != "").all(axis=None)
    assert without["tried_on"].isna().all()
    own = table.set_index(["engine", "kernel"]).loc[("vLLM", "triton")]
    assert own["tried_on"] == "H100"
    assert len(table[table["engine"] == "vLLM"]) >= 12
    sorted_on = support.elsewhere(cells, load.align_benches()).set_index(["engine", "kernel"])["tried_on"]
    assert sorted_on[("vLLM", "align & sort")] == "H100", "of a committed run of the align benchmark"
    assert sorted_on[("vLLM", "triton")] == "H100"


def test_findings_name_failures_and_what_was_never_tried(cells):
    said = {finding.about: finding for finding in findings.all_of(cells, support.elsewhere(cells)) if finding}
    assert said["Some calls failed"].severity == "problem"
    assert "fused_moe in int4_w4a16 (wrong: by far)" in said["Some calls failed"].text
    assert said["Layouts and biases"].text.startswith(
        "Rows by expert with counts (batched) are the layout of batched, "
    )
    assert (cell(cells, "grouped", "bf16")["adds_biases"], cell(cells, "scattermoe", "bf16")["adds_biases"]) == (
        "yes",
        "no",
    )
    assert "nvfp4" in said["Not tried on a GPU"].text
    assert "int4_w4a16" not in said["Not tried on a GPU"].text
