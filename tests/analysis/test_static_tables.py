import pandas as pd

from moe_lab.analysis import static_check, static_tables

ROW = {"arch": "sm_90", "error": None, "M": 64, "algorithm": None, "backend": "fused_moe", "stage": "w13"}
ROW |= {"kernel": "gemm_kernel", "format": "bf16", "static_registers": 128, "static_occupancy_pct": 25.0}
ROW |= {"vgpr_spills": None, "sgpr_spills": None, "local_accesses": 0, "loads": [("16", 3), ("4", 1)]}
ROW |= {"loop_loads": None, "static_vgprs": 60, "static_agprs": 4, "static_sgprs": 30, "static_smem_bytes": 1024}


def table(*changes):
    return pd.DataFrame([ROW | one for one in changes])


def test_the_worst_launch_at_the_largest_m_stands_for_a_kernel() -> None:
    rows = table({"M": 1, "static_registers": 255}, {}, {"static_registers": 200}, {"error": "no"}, {"arch": "gfx942"})
    found = static_tables.over_architectures(rows)
    assert found[["what", "arch", "static_registers", "load_bytes"]].values.tolist() == [
        ["w13: gemm, bf16", "sm_90", 200, 13.0],
        ["w13: gemm, bf16", "gfx942", 128, 13.0],
    ]
    assert static_tables.over_architectures(rows, 1)["static_registers"].tolist() == [255]
    assert static_tables.wide(found).loc[0, "static_registers gfx942"] == 128


def test_loads_of_the_loop_count_before_others_and_those_by_tma_have_no_width() -> None:
    rows = table({"loop_loads": [("8", 2)]}, {"kernel": "tma_kernel", "loads": []})
    assert static_tables.over_architectures(rows)["load_bytes"].isna().tolist() == [False, True]
    assert static_tables.over_architectures(rows)["load_bytes"][0] == 8


def test_published_kernels_follow_ours_and_lack_what_was_not_published() -> None:
    found = static_tables.amd(table({}, {"arch": "gfx942"}), beside_published=True)
    assert found["of"].tolist() == ["fused_moe", "published", "published", "published"]
    assert found["static_vgprs"].tolist() == [60, 20, 8, 52]
    assert found["static_agprs"].isna().tolist() == [False, True, True, True]


def test_a_run_without_an_amd_architecture_has_no_columns_of_it() -> None:
    rows = table({}).drop(columns=["static_vgprs", "static_agprs", "static_sgprs", "sgpr_spills", "vgpr_spills"])
    assert static_tables.amd(rows, beside_published=True)["of"].tolist() == ["published"] * 3


def test_a_capture_says_which_of_its_kernels_were_not_compiled() -> None:
    counted = {"path": "moe_lab|M=64|backend=fused_moe/w13", "call": "x", "stage": "w13", "grid_blocks": 8}
    counted |= {"block_threads": 128, "registers_per_thread": 128, "smem_static_bytes": 0, "smem_dynamic_bytes": 1024}
    counted |= {"occupancy_theoretical_pct": 25.004}
    both = pd.DataFrame([counted | {"name": name} for name in ("gemm_kernel", "other")]).drop(columns="call")
    rows = table({"grid_blocks": 8, "block_threads": 128}).astype({"M": "Int64", "algorithm": "object"})
    one = static_check.check("a", {"versions": {"triton": "3.6.0"}}, {"run": rows}, both)
    assert static_check.coverage([one]).values.tolist() == [["a", "3.6.0", 2, 1, 1, "other"]]
    none = static_check.check("a", {}, {}, both)
    assert (len(none.both), list(none.others)) == (0, ["gemm_kernel", "other"])
