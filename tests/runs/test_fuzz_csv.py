"""Damaged CSV files of ncu, rocprofv3 and rocprof-compute: one sentence, or the numbers that the whole file gives."""

import csv
import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from ncu_builder import ROOT, details, raw, stack
from rocprofv3_builder import CALLS, COPIES, KERNELS, MARKERS
from rocprofv3_builder import write as write_rocprofv3
from workload_builder import launch, sysinfo, write_csv

from moe_lab import cli
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

CELLS = ["", "x", "1.5", "1.5e300", "-1", "-7", "1e400", "nan", "inf", "\u00b2", "9223372036854775807", "9" * 30, "\0"]
CELLS += ["0x10", "1_000", "1 000", "\ufeff5", "\x1b[31m", "Agent 4", "y" * 140_000, "9" * 5000, "true", "2020-01-01"]
TIME, SM = "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"
FUZZ = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rocprofv3(folder: Path) -> list[Path]:
    write_rocprofv3(folder, kernels=KERNELS, markers=MARKERS, calls=CALLS, copies=COPIES)
    return sorted(folder.glob("*.csv"))


def workload(folder: Path) -> list[Path]:
    sysinfo(folder)
    rows = [launch(n, "gemm", 1000 * n + 1000, 1000 * n + 1500, GRBM_GUI_ACTIVE=8000, SQ_WAVES=7) for n in range(3)]
    write_csv(folder / "pmc_perf.csv", rows)
    write_csv(folder / "roofline.csv", [{"device": 0, "HBMBw": 4000.0, "FP32Flops": 90000.0}])
    return sorted(folder.glob("*.csv"))


def _kernel(**more):
    return {"name": "k", "grid": "(27600, 1, 1)", "block": "(128, 1, 1)", "stack": stack(ROOT, "w13"), **more}


def ncu_raw(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    values = {TIME: "1,503,456", SM: "33.25", "launch__registers_per_thread": "168"}
    page = raw([_kernel(values=values)] * 2, {TIME: "ns", SM: "%", "launch__registers_per_thread": "register/thread"})
    (folder / "page.csv").write_text(page)
    return [folder / "page.csv"]


def ncu_details(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("GPU Speed Of Light", "Duration", "us", "12.25"), ("GPU Speed Of Light", "SM [%]", "%", "33.25")]
    (folder / "page.csv").write_text(details([_kernel(rows=rows)] * 2))
    return [folder / "page.csv"]


FORMS = {f.__name__: f for f in (rocprofv3, workload, ncu_raw, ncu_details)}


def report_of(name: str, folder: Path) -> Path:
    return folder / "page.csv" if name.startswith("ncu") else folder


@pytest.fixture(params=FORMS)
def form(request, tmp_path):
    """Return (name, folder, files, the table of the whole files)."""
    files = FORMS[request.param](tmp_path / "whole")
    return request.param, tmp_path / "whole", files, parse_report(report_of(request.param, tmp_path / "whole")).table


def damaged(form, tmp_path: Path, number: int, text: bytes) -> Path:
    name, folder, files, _ = form
    shutil.rmtree(tmp_path / "bad", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / files[number].name).write_bytes(text)
    return report_of(name, tmp_path / "bad")


def judged(path: Path) -> pd.DataFrame | None:
    """Return the table, None if one sentence says why there is none."""
    try:
        table = parse_report(path).table
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 700
    if said:
        return None
    assert (table["duration_ns"].dropna() >= 0).all()
    assert (table["grid_blocks"].dropna() >= 0).all()
    assert (table["registers_per_thread"].dropna() >= 0).all()
    return table


@seed(14)
@FUZZ
@given(data=st.data())
def test_one_wrong_cell_is_refused_or_changes_nothing_else(form, tmp_path, data):
    """The other kernels keep every number that they have in the whole file."""
    number = data.draw(st.integers(0, len(form[2]) - 1))
    rows = list(csv.reader(io.StringIO(form[2][number].read_text())))
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows[row]) - 1))
    rows[row][column] = data.draw(st.sampled_from(CELLS))
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    table = judged(damaged(form, tmp_path, number, out.getvalue().encode()))
    whole = form[3]
    if table is None or len(table) != len(whole):
        return
    differs = [c for c in ("duration_ns", "grid_blocks") if not table[c].isna().any() and not table[c].equals(whole[c])]
    assert len(differs) <= 2
    for column_name in differs:
        assert (table[column_name] != whole[column_name]).sum() <= 1 or row <= 1, "one cell changes one kernel"


@seed(14)
@FUZZ
@given(data=st.data())
def test_a_file_that_breaks_off_is_refused_or_gives_the_kernels_before_it(form, tmp_path, data):
    number = data.draw(st.integers(0, len(form[2]) - 1))
    text = form[2][number].read_bytes()
    table = judged(damaged(form, tmp_path, number, text[: data.draw(st.integers(0, len(text)))]))
    if table is None or form[2][number].name.split("_", 1)[-1] in ("marker_api_trace.csv", "hip_api_trace.csv"):
        return
    known = table["duration_ns"].notna().to_numpy(bool)
    assert table["duration_ns"][known].tolist() == form[3]["duration_ns"][: len(table)][known].tolist()


@seed(14)
@FUZZ
@given(data=st.data())
def test_bytes_that_do_not_belong_end_in_a_sentence_or_a_table(form, tmp_path, data):
    number = data.draw(st.integers(0, len(form[2]) - 1))
    text = bytearray(form[2][number].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b";"]))
    judged(damaged(form, tmp_path, number, bytes(text)))


@pytest.mark.parametrize("command", ["breakdown", "counters", "import"])
@pytest.mark.parametrize("cell", ["1.5e300", "\u00b2", "9" * 30])
def test_commands_end_in_one_sentence(form, tmp_path, command, cell, capsys):
    rows = list(csv.reader(io.StringIO(form[2][-1].read_text())))
    rows[-1] = [cell] * len(rows[-1])
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    path = damaged(form, tmp_path, len(form[2]) - 1, out.getvalue().encode())
    assert cli.main(
        [command, str(path), *(["--profiles", str(tmp_path / "p"), "--name", "g/r"] if command == "import" else [])]
    ) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
