"""Runs over time: series of what belongs together, steps from run to run, and change points."""

import json

import numpy as np
import pytest
import sweep_builder

from moe_lab import cli
from moe_lab.analysis import history
from moe_lab.runs import Run, bench_runs


def point(name, date, cases, gpu="H100", kind="experts", **versions):
    run = Run(name, {"name": name, "date": date, "versions": versions})
    return history.Point(run, kind, gpu, {(case,): us for case, us in cases.items()})


def test_a_step_is_a_change_point_and_noise_is_none():
    rng = np.random.default_rng(1)
    levels = np.log(np.r_[np.full(6, 100), np.full(5, 110), np.full(6, 95)]) + rng.normal(0, 0.005, 17)
    assert history.change_points(levels, np.log(1.05)) == {6: 1, 11: -1}
    noisy = rng.normal(0, 0.05, 30)
    assert history.change_points(noisy, np.log(1.05)) == {}, "the least change alone would find several"
    assert history.change_points(np.log([100, 120]), np.log(1.05)) == {1: 1}
    assert history.change_points([0.0], 0.1) == {}


def test_runs_of_one_series_share_cases_gpu_and_kind():
    runs = [
        point("c", "2026-03-01", {"M=1": 24.0, "M=2": 44.0}, torch="2.9"),
        point("a", "2026-01-01", {"M=1": 10.0, "M=2": 20.0}, torch="2.8"),
        point("b", "2026-02-01", {"M=1": 12.0, "M=2": 22.0, "M=4": 1.0}, torch="2.8"),
        point("other", "2026-02-02", {"M=1": 1.0}, gpu="H200"),
        point("else", "2026-02-03", {"M=9": 1.0}),
    ]
    table = history.lines(runs, 50.0)
    own = table[table["series"] == 1]
    assert own["run"].tolist() == ["a", "b", "c"]
    assert own["cases"].tolist() == [2, 2, 2]
    assert own["change_pct"].iloc[1] == pytest.approx(100 * ((1.2 * 1.1) ** 0.5 - 1))
    assert own["level_pct"].iloc[2] == pytest.approx(100 * (2.4 * 2.2) ** 0.5)
    assert own["changed_point"].tolist() == ["", "", "slower"]
    assert own["versions"].tolist() == ["", "", "torch 2.8 → 2.9"]
    assert set(table["run"]) - set(own["run"]) == {"other", "else"}


def test_the_command_reads_a_folder_or_names_that_begin_alike(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    for name, date, us in (("second", "2026-02-01", 120.0), ("first", "2026-01-01", 100.0)):
        out = sweep_builder.write(tmp_path / "rows.json", [sweep_builder.row("auto", 16, us)], date=date)
        bench_runs.import_bench([out], f"h200/sweep_{name}", root=tmp_path)
    for where in ("h200/sweep_", str(tmp_path), str(tmp_path / "h200")):
        assert cli.main(["history", where, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)["runs"]
        assert [row["run"] for row in found] == ["h200/sweep_first", "h200/sweep_second"]
        assert found[1]["changed_point"] == "slower"
    assert cli.main(["history", "h200/sweep_"]) == 0
    assert "+20.0 %" in capsys.readouterr().out
    assert cli.main(["history", "no-such-name"]) == 2
