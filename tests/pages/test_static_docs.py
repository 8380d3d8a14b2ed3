import pytest
from checkout import REPO

from moe_lab import runs
from moe_lab.analysis import static, static_check
from moe_lab.analysis.counters import counters_table
from moe_lab.pages import load
from moe_lab.pages.static import docs, findings

# Known, docs/static.md: scalar registers of align kernels on AMD, the tile 128 x 256 x 64 on Ampere with all of its
# 255 registers, and the warps of hopper_moe that fetch.
SPILLS = {(arch, "scatter_kernel") for arch in ("gfx908", "gfx90a", "gfx942", "gfx950")}
SPILLS |= {("gfx942", "place_kernel"), ("gfx950", "place_kernel"), ("sm_80", "fused_moe_gemm_kernel")}
SPILLS |= {("sm_90", "hopper_moe")}
STATIC = REPO / "profiles" / "static"


@pytest.fixture(autouse=True)
def committed(monkeypatch) -> None:
    monkeypatch.setenv("MOE_LAB_PROFILES", str(REPO / "profiles"))


ALIGN = {"count_kernel", "scan_kernel", "place_kernel", "share_histogram_kernel", "column_cumsum_kernel"}
ALIGN |= {"expert_cumsum_kernel", "scatter_kernel", "bounds_kernel", "spread_kernel"}
ALIGN |= {"cooperative_align", "count_scan", "place"}


@pytest.mark.parametrize(
    ("run", "capture", "kernels", "count"),
    [
        (
            *("static/h100_counters_fp8", "h100/experts_counters_fp8"),
            {"fused_moe_gemm_kernel", "quantise_kernel", "combine_kernel", "one_launch_kernel"},
            22,
        ),
        ("static/h200_counters_align", "h200/align_counters", ALIGN, 12),
    ],
    ids=["experts", "align"],
)
def test_what_was_compiled_is_what_nsight_compute_found_on_the_gpu_by_the_same_triton(
    run, capture, kernels, count
) -> None:
    compiled, captured = runs.load(run), runs.load(capture)
    assert compiled.manifest["versions"]["triton"] == captured.manifest["versions"]["triton"]
    both = static_check.beside(compiled.rows(), counters_table(captured.launches(), ["occupancy_theoretical_pct"]))
    assert set(both["kernel"]) == kernels
    assert len(both) == count
    assert (both["static_registers"] == both["registers_per_thread"]).all()
    assert (both["static_smem_bytes"] == both["smem_bytes"]).all()
    theirs = both["occupancy_theoretical_pct"].to_list()
    assert both["static_occupancy_pct"].to_list() == pytest.approx(theirs, abs=0.01)
    assert docs.check(run, capture).startswith(f"{count} of {count} launches have exactly the registers")


@pytest.mark.parametrize(
    ("capture", "launches", "apart"),
    [
        ("experts_counters_fp8", 39, set()),
        ("experts_counters_bf16_large", 15, set()),
        ("experts_counters_backends", 36, {"hopper_moe"}),  # older: docs/static.md
    ],
)
def test_our_kernels_in_cuda_and_those_of_peers_are_what_nsight_compute_found_too(capture, launches, apart) -> None:
    (found,) = load.checks([f"h100/{capture}"], ["static/h100_counters"])
    assert len(found.both) == launches
    assert set(found.both.loc[~found.both["exact"], "kernel"]) == apart
    older = found.both[found.both["kernel"].isin(apart)]
    assert (older["static_registers"] == older["registers_per_thread"]).all()
    assert (older["static_occupancy_pct"] == older["occupancy_theoretical_pct"]).all()


def test_align_kernels_on_amd_have_their_registers_and_lds() -> None:
    lines = docs.align("static/align_deepseek-v3", ["multi_block"]).splitlines()
    assert lines[0].startswith("| algorithm | kernel | for | VGPRs | AGPRs | SGPRs | LDS, bytes |")
    assert len(lines) == 2 + 3 * 3, "count, scan and place, on three architectures"
    assert "article" in docs.align_published()


def test_findings_say_what_is_amiss_with_the_rows_that_show_it() -> None:
    rows = runs.load("static/qwen3-30b-a3b").rows()
    headline, *found = findings.all_of(rows)
    assert f"in {len(rows)} launches compiled for gfx90a, gfx942, gfx950, sm_80, sm_90 and sm_100" in headline.text
    about = {finding.about: finding for finding in found}
    refused = about["Does not compile or launch"]
    assert set(refused.rows["format"]) == {"fp8_block"}
    assert "sm_90" not in refused.text
    assert set(about["mma.sync where the GPU has more"].rows["arch"]) <= {"sm_90", "sm_100"}


@pytest.mark.parametrize("folder", sorted(p.name for p in STATIC.iterdir()))
def test_every_launch_of_the_committed_runs_compiles_but_for_what_a_format_refuses(folder) -> None:
    rows = runs.load(STATIC / folder).rows()
    failed = rows[rows["error"].notna()]
    assert failed["kernel"].isna().all(), failed[["arch", "kernel", "M", "error"]].to_string()
    assert set(failed["format"]) <= {"fp8_block"}
    rows = rows if "tile" not in rows else rows[rows["tile"].isna()]  # tiles are tried, and may spill
    spilled = static.amiss(rows, next(rule for rule in static.RULES if rule.about == "Spills"))
    assert set(zip(spilled["arch"], spilled["kernel"], strict=True)) <= SPILLS
