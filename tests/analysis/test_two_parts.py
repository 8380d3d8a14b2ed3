"""Stages of a graph's kernels from a second trace in which the same kernels ran in ranges."""

import numpy as np
import pandas as pd
import pytest
from checkout import REPO
from nsys_builder import NsysBuilder

from moe_lab import cli
from moe_lab.analysis.breakdown import breakdown
from moe_lab.analysis.kernels import stage_column
from moe_lab.analysis.two_parts import with_stages_of
from moe_lab.pages.api import load as load_run
from moe_lab.runs.attribution.tree import build
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import RANGE_COLUMNS, Launches, tidy

US = 1000  # ns
LAYER = [
    ("input_layernorm", ["norm"]),
    ("self_attn", ["gemm", "rope", "flash", "gemm"]),
    ("mlp.gate", ["gemm", "topk"]),
    ("mlp.experts", ["fused", "act", "fused"]),
]
STAGE = {"input_layernorm": "norm", "self_attn": "self_attn", "mlp.gate": "router", "mlp.experts": "experts"}


def eager(path, layers=3):
    """Write a step without graphs: every kernel in the range of its module."""
    b = NsysBuilder()
    at = number = 0
    for layer in range(layers):
        for module, kernels in LAYER:
            b.push(f"model.layers.{layer}.{module}", at, at + 100)
            for kernel in kernels:
                number += 1
                at += 5
                b.launch(at, number, gpu=(number * 10 * US, (number * 10 + 5) * US), name=kernel)
            at += 100
    return b.write(path)


def replayed(path, layers=3, replays=2, extra=()):
    """Write replays of a graph captured before the trace: the i-th kernel of a layer takes i + 1 us."""
    b = NsysBuilder()
    names = [kernel for _, kernels in LAYER for kernel in kernels]
    for replay in range(replays):
        at = 10_000 * (replay + 1)
        b.push("step", at, at + 100)
        b.replay(at + 10, replay + 1)
        gpu = at * US
        for number, name in enumerate([*(names * layers), *extra]):
            length = (number % len(names) + 1) * US
            b.kernel(gpu, gpu + length, replay + 1, node=number + 1, name=name)
            gpu += length
        b.node(1, 900)
    return b.write(path)


def ranges_of(launches):
    """Return the innermost range of every operation."""
    return [None if pd.isna(i) else launches.ranges["name"].loc[i] for i in launches.table["range_id"]]


def test_kernels_of_a_graph_have_the_stages_of_the_step_without_one(tmp_path):
    launches = with_stages_of(parse_report(replayed(tmp_path / "g.sqlite")), parse_report(eager(tmp_path / "e.sqlite")))
    table = breakdown(launches).set_index("path")["kernel_sum_ms"]
    # The same kernel name is attention, or router, by its neighbours. Of the first and last kernels of a replay the
    # neighbours are others than in the step that follows steps.
    assert table["step/self_attn"] == pytest.approx(3 * (2 + 3 + 4 + 5) / 1000)
    assert table["step/router"] == pytest.approx(3 * (6 + 7) / 1000)
    assert table["step/experts"] == pytest.approx(3 * (8 + 9 + 10) / 1000)
    assert launches.meta["warnings"][-1].startswith("60 of 60 kernels outside of stages (100.00 % of their time)")


def test_what_the_other_report_does_not_tell_is_left_and_counted(tmp_path):
    """A kernel that is nowhere there, and one between neighbours that it never had there."""
    replays = parse_report(replayed(tmp_path / "g.sqlite", replays=1, extra=("sampling", "flash", "sampling")))
    launches = with_stages_of(replays, parse_report(eager(tmp_path / "e.sqlite")))
    assert ranges_of(launches)[-3:] == ["step"] * 3
    assert " of 33 kernels outside of stages" in launches.meta["warnings"][-1]


def test_a_kernel_that_is_in_two_stages_between_the_same_neighbours_is_told_by_no_one(tmp_path):
    b = NsysBuilder()
    for number, module in enumerate(("self_attn", "w13")):
        b.push(module, 100 * number, 100 * number + 50)
        for i in range(3):
            b.launch(100 * number + i, 10 * number + i, gpu=(10**5 * number + 10 * i, 10**5 * number + 10 * i + 5))
    marked = parse_report(b.write(tmp_path / "e.sqlite"))
    b = NsysBuilder()
    for i in range(3):
        b.launch(i, i, gpu=(10 * i, 10 * i + 5))
    launches = with_stages_of(parse_report(b.write(tmp_path / "g.sqlite")), marked)
    assert launches.table["range_id"].isna().all()
    assert launches.meta["warnings"][-1].startswith("0 of 3 kernels outside of stages (0.00 % of their time)")


def test_ranges_that_are_no_stages_are_told_without_their_number(tmp_path):
    b = NsysBuilder()
    for layer in (0, 1):
        b.push(f"DecoderLayer_{layer}", 100 * layer, 100 * layer + 50)
        for i, name in enumerate("abc"):
            gpu = 10**5 * layer + 10 * i
            b.launch(100 * layer + i, 10 * layer + i, gpu=(gpu, gpu + 5), name=name)
    marked = parse_report(b.write(tmp_path / "e.sqlite"))
    b = NsysBuilder()
    for i, name in enumerate("abc"):
        b.launch(i, i, gpu=(10 * i, 10 * i + 5), name=name)
    launches = with_stages_of(parse_report(b.write(tmp_path / "g.sqlite")), marked)
    assert ranges_of(launches) == [None, "DecoderLayer", None], "the ends of a trace have no neighbours to go by"


def test_a_report_that_marks_nothing_cannot_tell_stages(tmp_path):
    launches = parse_report(replayed(tmp_path / "g.sqlite"))
    bare = parse_report(eager(tmp_path / "e.sqlite"))
    bare.table["range_id"] = pd.array([pd.NA] * len(bare.table), dtype="Int64")
    with pytest.raises(UserError, match="has no kernel in a range"):
        with_stages_of(launches, bare)


def test_command_line_takes_the_stages_of_another_report(tmp_path, capsys):
    graph, step = str(replayed(tmp_path / "g.sqlite")), str(eager(tmp_path / "e.sqlite"))
    assert cli.main(["breakdown", graph, "--stages-of", step, "--roles", "none"]) == 0
    said = capsys.readouterr()
    assert "experts" in said.out
    assert "of 60 kernels outside of stages" in said.err
    assert cli.main(["kernels", graph, "--stages-of", step, "--by", "stage"]) == 0
    assert "self_attn" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["qwen3-30b-a3b_decode_b16_ctx2048", "experts_timeline_backends"])
def test_a_committed_capture_tells_its_own_kernels_their_stages(name):
    """GIVEN a capture without its ranges WHEN it is joined with itself THEN every kernel has its stage again."""
    marked = load_run(REPO / "profiles" / "h200" / name).launches
    nothing = pd.array([pd.NA] * len(marked.table), dtype="Int64")
    bare = Launches(marked.table.assign(range_id=nothing), tidy(pd.DataFrame(), RANGE_COLUMNS), {})
    found = with_stages_of(bare, marked)
    stages = [stage_column(build(one), np.flatnonzero(one.table["kind"] == "kernel")) for one in (found, marked)]
    pd.testing.assert_series_equal(*stages)
