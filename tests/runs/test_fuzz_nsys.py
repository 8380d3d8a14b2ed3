"""Exports of Nsight Systems with values that nobody expects: a report, or one sentence, and never another number."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from nsys_builder import NsysBuilder

from moe_lab import runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.cli import main
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

VALUES = ("12abc", "", "²", b"\x00", b"\xff\xfe", 1.5, float("inf"), None, -1, 0, 2**31, 2**62, 2**63 - 1, -(2**63))
KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"


def export(path):
    """Write a report with a replayed graph, copies, two processes and everything that is said of a GPU."""
    b = NsysBuilder()
    b.event(75, "moe_lab", 0, None, registered=True, domain=5)
    b.push("layer", 0, 100)
    b.push("w13", 10, 40, registered=True, domain=5)
    b.event(60, "request", 5, 60)
    b.launch(12, 1, gpu=(200, 230))
    b.launch(50, 2, gpu=(230, 240))
    b.call(55, 57, 3)
    b.memcpy(240, 250, 3)
    b.call(58, 59, 4)
    b.memset(250, 260, 4)
    b.node(15, 1)
    b.node(45, 2, 1)
    b.push("replay", 300, 400)
    b.replay(310, 5)
    b.kernel(320, 330, 5, node=2)
    b.launch(12, 1, gpu=(260, 270), process=2)
    b.row("TARGET_INFO_GPU", id=0, name="NVIDIA H200", smCount=132, totalMemory=1, computeMajor=9, computeMinor=0)
    b.row("TARGET_INFO_SYSTEM_ENV", name="CudaDriverVersion", value="12080")
    b.row("TARGET_INFO_SESSION_START_TIME", utcEpochNs=1, utcTime="2026-01-02T03:04:05")
    return b.write(path)


def places(path):
    with closing(sqlite3.connect(path)) as db:
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return [(t, c[1]) for t in tables for c in db.execute(f'PRAGMA table_info("{t}")')]


def read(path):
    """Return (launches, ms of all kernels), None for both where the report is refused in one sentence."""
    try:
        launches = parse_report(path)
        return launches, breakdown(launches).attrs["coverage"]["kernel_time_ms"]
    except UserError as refused:
        said = str(refused)
    assert "\n" not in said
    assert said.endswith(".")
    return None, None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = export(tmp_path_factory.mktemp("whole") / "run.sqlite")
    return path.read_bytes(), places(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@seed(14)
@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_column_gives_a_report_or_a_sentence(whole, folder, data):
    table, column = data.draw(st.sampled_from(whole[1]))
    value = data.draw(st.sampled_from(VALUES))
    path = folder / "run.sqlite"
    path.write_bytes(whole[0])
    with closing(sqlite3.connect(path)) as db:
        try:
            db.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = 1', (value,))
        except sqlite3.IntegrityError:
            return
        db.commit()
    launches, table_ms = read(path)
    if launches is None:
        return
    assert (launches.table["duration_ns"] >= 0).all()
    if (table, column) not in ((KERNEL, "start"), (KERNEL, "end")):
        assert table_ms == pytest.approx(60e-6)
    run = runs.import_report(path, "gpu/fuzzed", root=folder / "profiles", overwrite=True)
    again = breakdown(run.launches()).attrs["coverage"]
    assert again["kernel_time_ms"] == pytest.approx(table_ms)


@seed(14)
@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 10**6), length=st.integers(1, 64), byte=st.integers(0, 255))
@example(at=18, length=1, byte=9)
def test_any_damaged_bytes_give_a_report_or_a_sentence(whole, folder, at, length, byte):
    raw = bytearray(whole[0])
    at %= len(raw)
    raw[at : at + length] = bytes([byte]) * len(raw[at : at + length])
    path = folder / "run.sqlite"
    path.write_bytes(raw)
    read(path)


@pytest.mark.parametrize("command", [["breakdown"], ["counters"], ["import"]])
def test_text_in_a_column_of_times_ends_in_exit_2(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / "profiles"))
    path = export(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {KERNEL} SET start = '12abc' WHERE rowid = 2")
        db.commit()
    assert main([*command, str(path)]) == 2
    assert f"column start of {KERNEL} holds something other than whole numbers" in capsys.readouterr().err
    assert not (tmp_path / "profiles").exists()
