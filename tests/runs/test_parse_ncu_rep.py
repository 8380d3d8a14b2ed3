"""A .ncu-rep through ncu-report: the same table as its raw page, with a stand-in package and with real pairs."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import checkout
import pandas as pd
import pytest
from ncu_builder import ROOT, raw, stack

from moe_lab import runs
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

# A .ncu-rep holds environment and paths, so no pair is committed: X.ncu-rep and X_raw_base.csv, where they are.
DATA = Path(os.environ.get("MOE_LAB_NCU_PAIRS", checkout.DATA / "ncu"))
PAIRS = sorted(p for p in DATA.glob("*.ncu-rep") if p.with_name(f"{p.stem}_raw_base.csv").exists())
TIME, READ, HIT = "gpu__time_duration.sum", "dram__bytes_read.sum", "lts__t_sector_hit_rate.pct"
NAME = "void moe::fused_moe<float>(const float *, int)"


class Metric:
    def __init__(self, value, unit=""):
        self._value, self._unit = value, unit

    def value(self):
        return self._value

    def unit(self):
        return self._unit


class Action:
    """What IAction has of a kernel, as ncu_report 2026.3 names it."""

    def __init__(self, metrics, domains):
        self._metrics = metrics
        self._domains = domains

    def name(self, base):
        return {0: "fused_moe", 1: NAME}[base]

    def metric_names(self):
        return tuple(self._metrics)

    def __getitem__(self, name):
        return self._metrics[name]

    def nvtx_state(self):
        if self._domains is None:
            return None
        return {
            number: SimpleNamespace(
                name=lambda d=domain: d, push_pop_ranges=lambda s=names: s, start_end_ranges=lambda f=free: f
            )
            for number, (domain, names, free) in enumerate(self._domains)
        }


def action(values, domains):
    launch = {"launch__stream_id": 7, "launch__device_id": 0, "launch__process_id": 4711}
    sizes = {f"launch__grid_dim_{a}": n for a, n in zip("xyz", (6144, 1, 1), strict=True)}
    sizes |= {f"launch__block_dim_{a}": n for a, n in zip("xyz", (128, 1, 1), strict=True)}
    attributes = {f"device__attribute_compute_capability_{p}": n for p, n in (("major", 9), ("minor", 0))}
    plain = {name: Metric(value) for name, value in (launch | sizes | attributes).items()}
    return Action(plain | {"smsp__pcsamp": Metric("text")} | values, domains)


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return a function that puts actions where a report would be."""

    def make(*actions):
        package = SimpleNamespace(
            load_report=lambda path: [list(actions)], IAction=SimpleNamespace(NameBase_DEMANGLED=1)
        )
        monkeypatch.setitem(sys.modules, "ncu_report", package)
        path = tmp_path / "r.ncu-rep"
        path.write_bytes(b"NVR")
        return path

    return make


def test_report_gives_the_table_of_its_raw_page(report, tmp_path):
    """GIVEN the same two kernels in both forms, one hit rate not measured THEN the tables are equal."""
    domains = [("moe_lab", (ROOT, "w13"), ())]
    both = [{TIME: Metric(129000, "nsecond"), READ: Metric(522000000, "byte"), HIT: Metric(3.7, "%")}]
    both.append({TIME: Metric(68.0, "usecond"), READ: Metric(0.261, "Gbyte"), HIT: Metric(float("nan"), "%")})
    page = tmp_path / "page.csv"
    kernel = {"name": NAME, "grid": "(6144, 1, 1)", "block": "(128, 1, 1)", "stack": stack(ROOT, "w13")}
    values = [{TIME: "129000", READ: "522000000", HIT: "3.7"}, {TIME: "68000", READ: "261000000", HIT: ""}]
    page.write_text(raw([kernel | {"values": v} for v in values], {TIME: "ns", READ: "byte", HIT: "%"}))
    mine, other = parse_report(report(*(action(v, domains) for v in both))), parse_report(page)
    pd.testing.assert_frame_equal(mine.table, other.table)
    pd.testing.assert_frame_equal(mine.ranges.drop(columns="thread"), other.ranges.drop(columns="thread"))
    assert mine.meta["gpu"]["compute_capability"] == "9.0"


def test_run_of_a_report_is_csv_and_reads_without_the_package(report, tmp_path, monkeypatch):
    source = report(action({TIME: Metric(1000, "ns")}, [("moe_lab", ("load /home/ada/w.bin",), ("request",))]))
    run = runs.import_report(source, "h200/x", root=tmp_path / "profiles")
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    assert run.report.name == "report.csv"
    after = run.launches()
    assert after.table["duration_ns"].tolist() == [1000]
    assert after.ranges["name"].tolist() == ["load w.bin", "request"]
    assert after.ranges["crossing"].tolist() == [False, True]


def test_kernel_without_nvtx_state_is_unattributed(report):
    found = parse_report(report(action({TIME: Metric(5, "ns")}, None)))
    assert found.table["range_id"].isna().all()


def test_missing_package_names_the_pip_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    path = tmp_path / "r.ncu-rep"
    path.write_bytes(b"NVR")
    with pytest.raises(UserError, match=r"pip install 'moe-lab\[ncu\]' .*ncu --import r.ncu-rep --csv --page raw"):
        parse_report(path)


def test_empty_report_holds_no_kernel(report):
    with pytest.raises(UserError, match="holds no profiled kernel"):
        parse_report(report())


HUGE = 10**400


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text", None, -5, HUGE, 1.5, True, [1]])
@pytest.mark.parametrize("name", ["launch__stream_id", "launch__grid_dim_x", "launch__process_id"])
def test_value_of_a_launch_that_cannot_be_is_na_and_noted(report, name, value):
    """GIVEN one wrong value in the first of two kernels THEN only its own number is NA, and a note names it."""
    values = [{TIME: Metric(1000, "ns")}, {TIME: Metric(2000, "ns")}]
    found = parse_report(report(action(values[0] | {name: Metric(value)}, None), action(values[1], None)))
    column = {"launch__stream_id": "stream", "launch__grid_dim_x": "grid_x"}.get(name)
    assert found.table["duration_ns"].tolist() == [1000, 2000]
    assert found.table["block_x"].tolist() == [128, 128]
    assert column is None or found.table[column].isna().tolist() == [True, False]
    assert found.meta["warnings"] == [f"1 of 2 kernels have values that cannot be true ({name}): NA."]


@pytest.mark.parametrize(
    ("value", "unit"), [("text", "ns"), (-1, "ns"), (HUGE, "ns"), (1e300, "ns"), (5, "byte"), (5, None), (True, "ns")]
)
def test_counter_that_cannot_be_is_na_and_noted(report, value, unit):
    found = parse_report(report(action({TIME: Metric(value, unit), READ: Metric(7, "byte")}, None)))
    assert found.table["duration_ns"].isna().all()
    assert found.table["dram_read_bytes"].tolist() == [7]
    assert found.meta["warnings"] == [f"1 of 1 kernels have values that cannot be true ({TIME}): NA."]


def test_name_and_gpu_of_a_kernel_that_are_no_text_are_not_kept(report):
    kernel = action({TIME: Metric(5, "ns"), "device__attribute_display_name": Metric(3.5)}, [(None, (7, "w13"), ())])
    kernel.name = lambda base: None
    found = parse_report(report(kernel))
    assert found.table["name"].tolist() == ["(unnamed)"]
    assert found.ranges["path"].tolist() == ["(unnamed)", "(unnamed)/w13"]
    assert found.meta["gpu"]["name"] is None


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AttributeError, OSError])
def test_report_that_breaks_while_it_is_read_is_one_sentence(report, error):
    kernel = action({TIME: Metric(5, "ns")}, None)

    def broken():
        raise error("no\nmore")

    kernel.nvtx_state = broken
    with pytest.raises(UserError, match=r"r\.ncu-rep cannot be read by ncu-report") as refused:
        parse_report(report(kernel))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"hello" * 100, b"NVR\0" + bytes(100), bytes(5000)])
def test_damaged_report_is_said_to_be_one(tmp_path, data):
    pytest.importorskip("ncu_report", reason="needs the ncu extra")
    path = tmp_path / "r.ncu-rep"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"r.ncu-rep (cannot be read by ncu-report|holds no)"):
        parse_report(path)


@pytest.mark.parametrize("path", PAIRS, ids=[p.stem for p in PAIRS])
def test_real_report_gives_the_table_of_its_real_raw_page(path):
    pytest.importorskip("ncu_report", reason="needs the ncu extra")
    mine, other = parse_report(path), parse_report(path.with_name(f"{path.stem}_raw_base.csv"))
    # The page shortens template arguments ("(int)2" is "2") and prints two decimals.
    differing = ["process", "stream", "device", "name_full"]
    pd.testing.assert_frame_equal(
        mine.table.drop(columns=differing), other.table.drop(columns=differing), rtol=1e-4, atol=0.00501
    )
    assert mine.meta["gpu"] == other.meta["gpu"]
    columns = ["name", "path", "domain", "depth"]
    pd.testing.assert_frame_equal(mine.ranges[columns], other.ranges[columns])
