"""``moe-lab compare``: what is said first, the formats, and the exit code."""

import csv
import io
import json
import re

import pytest
from checkout import REPO

from moe_lab import cli

A, B = "h100/qwen3-30b-a3b-fp8_decode_b16_ctx2048_auto", "h100/qwen3-30b-a3b-fp8_decode_b16_ctx2048_sglang_triton"


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(REPO / "profiles"))


def test_what_differs_comes_first_and_a_regression_is_exit_code_1(capsys):
    assert cli.main(["compare", A, B]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[4].split() == ["problem", "backend", "auto", "sglang_triton"]
    assert re.search(r"^B takes 1\.\d\d times as long as A", said.out, re.M)
    assert "Holm" in said.err


def test_no_regression_is_exit_code_0(capsys):
    assert cli.main(["compare", A, B, "--threshold", "20%"]) == 0
    assert "slower than A in 0 of 6 rows" in capsys.readouterr().out


def test_every_format_has_the_same_rows(capsys):
    cli.main(["compare", A, B, "--format", "json"])
    data = json.loads(capsys.readouterr().out)
    cli.main(["compare", A, B, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["stage"] for row in rows] == [row["stage"] for row in data["rows"]]
    slower = [row for row in data["rows"] if row["verdict"] == "slower"]
    assert data["regressions"] == len(slower) > 0
    cli.main(["compare", A, B, "--format", "md"])
    out = capsys.readouterr().out
    shown = dict(re.findall(r"^\| (\S+) \| [\d.]+ \| [\d.]+ \| ([+-][\d.]+) %", out, re.M))
    assert {stage: float(change) for stage, change in shown.items()} == pytest.approx(
        {row["stage"]: 100 * (row["ratio"] - 1) for row in slower}, abs=0.051
    )


def test_bad_input_is_exit_code_2(capsys):
    assert cli.main(["compare", A, "h100/align_sweep"]) == 2
    assert cli.main(["compare", A, B, "--root", "nothing-like-it"]) == 2
    with pytest.raises(SystemExit, match="2"):
        cli.main(["compare", A, B, "--threshold", "much"])
    assert "is not a percentage; write for example 5%" in capsys.readouterr().err
