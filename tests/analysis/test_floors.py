from dataclasses import replace
from pathlib import Path

import pytest
from launches_fixture import WORKLOAD, phase

from moe_lab.analysis.floors import floors
from moe_lab.pages.layer_breakdown import tables
from moe_lab.runs import Run


def test_floors_need_a_problem_that_the_run_states() -> None:
    assert floors([phase(workload=None)]).empty
    assert floors([phase(workload=WORKLOAD | {"experts_hit": None})]).empty
    rows = floors([phase()]).set_index("stage")
    weights = 80 * 2 * 768 * 2048
    activations = 16 * 2048 + 128 * 2 * 768
    assert rows.loc["w13", "minimum_gb"] == pytest.approx(2 * (weights + activations) / 1e9)
    assert rows.loc["w13", "minimum_tb_per_s"] == pytest.approx(2 * (weights + activations) / 40e-6 / 1e12)


def test_floors_of_a_fused_stage_are_not_guessed() -> None:
    given = phase()
    given.stages["stage"] = given.stages["stage"].replace({"w13": "w13+act"})
    assert list(floors([given])["stage"]) == ["w2"]


def test_floors_rate_the_traffic_by_the_measured_roof_else_by_the_theoretical_peak_and_name_it() -> None:
    assert floors([phase()])["pct_of_roof"].isna().all()
    gpu = {"name": "NVIDIA H200", "memory_bandwidth_bytes_per_s": 20e12}
    peak = floors([phase(gpu=gpu)])
    assert list(peak["roof"]) == ["theoretical peak"] * 2
    assert list(peak["pct_of_roof"]) == pytest.approx(list(100 * peak["minimum_tb_per_s"] / 20))
    roofs = {"read_bytes_per_s": 10e12, "copy_bytes_per_s": 9e12}
    own = Run(Path("x"), {"name": "x", "gpu": {"name": "NVIDIA H200"}, "measured": {"roofs": roofs}})
    found = floors([replace(phase(gpu=gpu), known=[own])])
    assert list(found["roof"]) == ["measured"] * 2
    assert list(found["roof_tb_per_s"]) == [10, 10]
    assert list(found["pct_of_roof"]) == pytest.approx(list(10 * found["minimum_tb_per_s"]))
    assert tables.floors(found).html().count('wrong"') == 2, "126 % of a roof is marked"
