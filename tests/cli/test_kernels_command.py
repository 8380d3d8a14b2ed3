"""``moe-lab kernels``: what people read, and what programs do."""

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from nsys_builder import NsysBuilder

from moe_lab import cli

US = 1000
LONG = "void cutlass::device_kernel_with_a_name_that_is_longer_than_any_terminal_would_show<" + "x" * 60 + ">_end"


@pytest.fixture
def report(tmp_path):
    b = NsysBuilder()
    for number, (name, us) in enumerate([("gemm", 1), ("gemm", 1500), ("norm", 4), (LONG, 2)]):
        b.launch(number, number, gpu=(10**7 * number, 10**7 * number + us * US), name=name)
    return b.write(tmp_path / "r.sqlite")


def test_table_has_times_in_units_that_fit_and_a_summary(report, capsys):
    assert cli.main(["kernels", str(report)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == [
        "gemm",
        "2",
        "1.501",
        "ms",
        "99.60",
        *("750.5 us " * 2).split(),
        "1.000",
        "us",
        "1.500",
        "ms",
    ]
    assert LONG in out, "a pipe gets whole names"
    assert out.endswith("4 kernels, 1.507 ms.\n")


def test_rows_are_sorted_and_cut_and_what_is_cut_is_said(report, capsys):
    assert cli.main(["kernels", str(report), "--sort", "name", "--top", "2", "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert [row["name"] for row in csv.DictReader(io.StringIO(said.out))] == ["gemm", "norm"]
    assert "note: 1 more rows have 0.13 % of the time; --top 0 shows them." in said.err
    assert cli.main(["kernels", str(report), "--sort", "min", "--top", "0", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["min_us"] for row in found["kernels"]] == [4, 2, 1]
    assert cli.main(["kernels", str(report), "--by", "stage,colour"]) == 2
    assert "cannot be summed by 'colour'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 100])
def test_a_table_is_no_wider_than_the_terminal(report, columns):
    shown, terminal = pty.openpty()
    argv = [sys.executable, "-m", "moe_lab", "kernels", str(report)]
    done = subprocess.run(argv, stdout=terminal, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": str(columns)})
    os.close(terminal)
    lines = os.read(shown, 10_000).decode().splitlines()
    os.close(shown)
    assert done.returncode == 0
    assert max(map(len, lines)) <= columns
    assert any("void cutl" in line and "..." in line and "_end" in line for line in lines)
    assert ("too narrow for min, mean" in done.stderr.decode()) == (columns == 60)
