"""``moe-lab kernels`` and ``breakdown``: what people read, and what programs do."""

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from checkout import REPO
from nsys_builder import NsysBuilder

from moe_lab import cli

DECODE = REPO / "profiles" / "h200" / "qwen3-30b-a3b_decode_b16_ctx2048"
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


def in_terminal(columns, *argv):
    """Return (lines, stderr) of a command in a terminal of so many columns."""
    shown, terminal = pty.openpty()
    command = [sys.executable, "-m", "moe_lab", *map(str, argv)]
    done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": str(columns)})
    os.close(terminal)
    lines = os.read(shown, 10_000).decode().splitlines()
    os.close(shown)
    assert done.returncode == 0
    return lines, done.stderr.decode()


@pytest.mark.parametrize("columns", [60, 100])
def test_a_table_is_no_wider_than_the_terminal(report, columns):
    lines, notes = in_terminal(columns, "kernels", report)
    assert max(map(len, lines)) <= columns
    assert any("void cutl" in line and "..." in line and "_end" in line for line in lines)
    assert ("too narrow for min, mean" in notes) == (columns == 60)


def test_a_breakdown_in_a_narrow_terminal_keeps_the_time_and_says_what_is_gone():
    lines, notes = in_terminal(80, "breakdown", DECODE, "--spread")
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 80
    assert {"kernel_sum", "kernel_sum_min", "kernel_sum_max"} <= set(table[0].split())
    assert "too narrow for busy_min, busy_max, gap_min" in notes


def test_breakdown_selects_rows_and_says_so_in_every_format(capsys):
    asked = ["breakdown", str(DECODE), "--depth", "2", "--sort", "time", "--top", "4"]
    assert cli.main(asked) == 0
    said = capsys.readouterr()
    names = [line.split()[0] for line in said.out.splitlines()[2:5]]
    assert names == ["layers.0", "mlp", "self_attn"]
    assert "255.1 us" in said.out
    assert "note: 8 more rows are left out" in said.err
    assert cli.main([*asked, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["ranges"]][1:4] == names
    assert found["ranges"][0]["kernel_sum_ms"] == pytest.approx(0.2551, abs=1e-4), "what programs read stays in ms"
    assert "8 more rows" in found["notes"][-1]


def test_breakdown_names_what_helps_where_no_range_says_anything(tmp_path, capsys):
    b = NsysBuilder()
    b.push("warm-up", 0, 10)
    b.launch(1, 1, gpu=(0, US), name="rms_norm_kernel")
    b.launch(20, 2, gpu=(2 * US, 5 * US), name="rms_norm_kernel")
    path = str(b.write(tmp_path / "r.sqlite"))
    assert cli.main(["breakdown", path]) == 0
    assert "note: 75.00 % of the kernel time lies in no range; --roles auto tells" in capsys.readouterr().err
    assert cli.main(["breakdown", path, "--roles", "auto"]) == 0
    said = capsys.readouterr()
    assert "--roles auto" not in said.err
    assert "25.00 % in any range" in said.out
    assert "100.00 % of it has its role by name" in said.out


def test_roles_are_summed_and_how_many_kernels_have_one_is_said(report, capsys):
    assert cli.main(["kernels", str(report), "--by", "role"]) == 0
    assert "note: 0 of 4 kernels (0.00 % of their time) have a role, by range or name." in capsys.readouterr().err
