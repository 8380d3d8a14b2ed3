"""The counters table: medians, order, what is derived, top stalls, and the errors that say what to measure."""

import pandas as pd
import pytest
from ncu_builder import ROOT, raw, stack

from moe_lab.analysis.counters import KEYS, SHOWN, counters_table
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

TIME, SM = "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"
ACTIVE, BUSIEST, SMS = "sm__cycles_active.avg", "sm__cycles_active.max", "launch__sm_count"
REGISTERS, HIT = "launch__registers_per_thread", "lts__t_sector_hit_rate.pct"
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
UNITS = {TIME: "ns", SM: "%", ACTIVE: "cycle", BUSIEST: "cycle", SMS: "", REGISTERS: "register/thread", HIT: "%"}
UNITS |= {STALL.format(r): "warp" for r in ("long_scoreboard", "barrier", "wait", "math_pipe_throttle", "selected")}


def kernel(stage, values, *, name="k", grid=1):
    return {
        "name": name,
        "grid": f"({grid}, 1, 1)",
        "block": "(256, 1, 1)",
        "stack": stack(ROOT, "layers.0", "mlp", *stage),
        "values": {k: str(v) for k, v in values.items()},
    }


@pytest.fixture
def report(tmp_path):
    def write(kernels):
        path = tmp_path / "page.csv"
        path.write_text(raw(kernels, UNITS))
        return parse_report(path)

    return write


def test_row_is_the_median_over_launches_of_one_kernel_at_one_place(report):
    table = counters_table(
        report(
            [
                kernel(["w2"], {TIME: 3000, SM: 10, REGISTERS: 40}),
                kernel(["align"], {TIME: 1000}),
                kernel(["w2"], {TIME: 5000, SM: 30, REGISTERS: 40}),
                kernel(["w2"], {TIME: 40000, REGISTERS: 40}),
                kernel(["w2"], {TIME: 7000, REGISTERS: 48}, grid=2),
                kernel(["w2"], {TIME: 7000, REGISTERS: 56}, grid=2),
                kernel([], {TIME: 9000}),
            ]
        )
    )
    assert table["path"].str.split("/").str[-1].tolist() == ["w2", "align", "w2", "mlp"], "in order of launch"
    assert table["stage"].tolist() == ["w2", "align", "w2", pd.NA]
    assert table["launches"].tolist() == [3, 1, 2, 1]
    assert table["duration_us"].tolist() == [5, 1, 7, 9]
    assert table["sm_throughput_pct"].tolist()[0] == 20, "of the two launches in which it was measured"
    assert table["sm_throughput_pct"].isna().tolist() == [False, True, True, True]
    assert table["registers_per_thread"].tolist() == [40, pd.NA, pd.NA, pd.NA], "NA where launches differ"
    assert [c for c in table.columns if c in SHOWN] == list(SHOWN)
    assert not table.duplicated(list(KEYS)).any()


def test_active_sms_weighs_each_by_the_busiest(report):
    """One block keeps one of 132 SMs busy; a full grid with a quiet tail keeps most of them busy."""
    one = kernel(["align"], {TIME: 1000, ACTIVE: 1000 / 132, BUSIEST: 1000, SMS: 132})
    most = kernel(["w13"], {TIME: 1000, ACTIVE: 750, BUSIEST: 1000, SMS: 132}, grid=132)
    none = kernel(["w2"], {TIME: 1000, SMS: 132})
    table = counters_table(report([one, most, none]))
    assert table["active_sms"].tolist()[:2] == pytest.approx([1, 99])
    assert pd.isna(table["active_sms"].iloc[2])


def test_largest_stalls_come_first_and_issuing_is_none(report):
    ratios = {"long_scoreboard": 6, "barrier": 3, "wait": 0.5, "math_pipe_throttle": 0, "selected": 0.5}
    table = counters_table(report([kernel(["w13"], {TIME: 9, **{STALL.format(r): v for r, v in ratios.items()}})]))
    row = table.iloc[0]
    assert [row[f"stall_{n}"] for n in (1, 2, 3)] == ["long_scoreboard", "barrier", "wait"]
    assert [row[f"stall_{n}_pct"] for n in (1, 2, 3)] == pytest.approx([60, 30, 5])


def test_hit_rates_of_short_kernels_are_marked(report):
    kernels = [kernel(["align"], {TIME: 5000, HIT: 50}), kernel(["w13"], {TIME: 50000, HIT: 50})]
    [note] = counters_table(report(kernels)).attrs["notes"]
    assert note.startswith("1 of 2 rows ran for less than 20 us: their hit rates are unreliable")
    assert counters_table(report(kernels[1:])).attrs["notes"] == []


def test_chosen_metrics_stand_alone(report):
    table = counters_table(report([kernel(["w13"], {TIME: 1000, SM: 5})]), ["sm_throughput_pct"])
    assert table.columns[-1] == "sm_throughput_pct"
    assert "duration_us" not in table


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (["l2_hit_pct", "dram_read_bytes"], "without l2_hit_pct, dram_read_bytes; measure again with .* --set full"),
        (["dram_read_bytes"], "--set roofline"),
        (["active_sms"], "--set basic"),
        (["hits"], "knows no counter hits"),
    ],
)
def test_missing_counter_names_the_set_that_measures_it(metrics, sentence, report):
    with pytest.raises(UserError, match=sentence):
        counters_table(report([kernel(["w13"], {TIME: 1000, SM: 5})]), metrics)


def test_report_without_counters_says_how_to_measure_them(report):
    with pytest.raises(UserError, match="moe-lab capture ncu"):
        counters_table(report([kernel(["w13"], {TIME: 1000})]))
