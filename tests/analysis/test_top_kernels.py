"""The kernels that take the time."""

import pandas as pd
from nsys_builder import NsysBuilder
from nsys_runs import graph, parsed

from moe_lab.analysis.kernels import top_kernels

US = 1000  # ns


def report():
    """Return a root with two geometries of a kernel in w13, one in w2, a kernel directly in it, one outside."""
    b = NsysBuilder()
    b.push("moe_lab|M=1", 0, 1000)
    b.push("w13", 1, 500)
    b.push("w2", 501, 900)
    launches = [
        (10, 5, {"name": "up", "grid": (8, 1, 1)}),
        (20, 7, {"name": "up", "grid": (8, 1, 1)}),
        (30, 40, {"name": "up", "grid": (16, 2, 1), "registers": 255}),
        (40, 60, {"name": "up", "grid": (16, 2, 1), "registers": 128}),
        (600, 25, {"name": "up", "grid": (8, 1, 1)}),
        (950, 3, {"name": "copy"}),
        (1100, 900, {"name": "outside"}),
    ]
    for i, (at, us, kernel) in enumerate(launches):
        b.launch(at, i, gpu=(10**6 * i, 10**6 * i + us * US), **kernel)
    b.call(960, 962, 99)
    b.memcpy(10**8, 2 * 10**8, 99)
    return b


def test_top_kernels_have_a_row_for_each_path_name_and_geometry(tmp_path):
    got = top_kernels(parsed(report(), tmp_path))
    assert got["path"].tolist() == ["moe_lab|M=1/w13", "moe_lab|M=1/w2", "moe_lab|M=1/w13", "moe_lab|M=1"]
    assert got["name"].tolist() == ["up", "up", "up", "copy"]
    assert got["launches"].tolist() == [2, 1, 2, 1]
    assert got["grid_blocks"].tolist() == [32, 8, 8, 8]
    assert got["block_threads"].tolist() == [128] * 4
    assert got["median_us"].tolist() == [50, 25, 6, 3]
    assert got["total_ms"].tolist() == [0.1, 0.025, 0.012, 0.003]
    assert got["pct_of_root"].sum() == 100
    assert pd.isna(got["registers_per_thread"][0]), "its launches differ"
    assert got["registers_per_thread"].tolist()[1:] == [64, 64, 64]


def test_top_kernels_keep_to_the_root_and_the_limit(tmp_path):
    got = top_kernels(parsed(report(), tmp_path), "^w13$", limit=1)
    assert got[["path", "name", "total_ms"]].values.tolist() == [["w13", "up", 0.1]]
    assert got["pct_of_root"].tolist() == [100 * 100 / 112]


def test_top_kernels_of_a_report_without_ranges_are_unattributed(tmp_path):
    b = NsysBuilder()
    b.launch(1, 1, gpu=(0, 5 * US))
    got = top_kernels(parsed(b, tmp_path), limit=0)
    assert got[["path", "name", "pct_of_root"]].values.tolist() == [["(unattributed)", "gemm", 100.0]]


def test_top_kernels_join_the_replays_of_a_graph(tmp_path):
    got = top_kernels(parsed(graph(), tmp_path))
    assert got["path"].tolist() == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp/w2"]
    assert got["launches"].tolist() == [2, 2]
