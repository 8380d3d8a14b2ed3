import pytest
from launches_fixture import WORKLOAD, phase

from moe_lab.analysis.floors import floors


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


def test_floors_rate_the_traffic_only_where_the_report_states_the_memory() -> None:
    assert floors([phase()])["pct_of_memory"].isna().all()
    gpu = {"name": "NVIDIA H200", "memory_bandwidth_bytes_per_s": 20e12}
    rated = floors([phase(gpu=gpu)])
    assert list(rated["pct_of_memory"]) == pytest.approx(list(100 * rated["minimum_tb_per_s"] / 20))
