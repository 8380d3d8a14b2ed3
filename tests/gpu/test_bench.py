"""The align benchmark's bookkeeping, with the clock and the GPU replaced; times are measured on a GPU only."""

import argparse
import contextlib
import json

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import routing
from moe_lab.gpu.bench import align, align_command
from moe_lab.gpu.bench import result as results
from moe_lab.gpu.workloads import record
from moe_lab.runs import rows
from moe_lab.spec import bench_options, plugins


def test_the_reason_of_an_error_is_its_last_line_before_a_c_plus_plus_stack():
    stack = (
        "Exception raised from launch at x.cpp:1 (most recent call first):\nframe #0: a + 0x1\nframe #1: _start + 0x2\n"
    )
    assert align.one_line(RuntimeError(f"first\nCUDA driver error: 1\n{stack}")) == "RuntimeError: CUDA driver error: 1"
    assert align.one_line(ValueError("first\n\nreason\n")) == "ValueError: reason"
    assert align.one_line(ValueError("")) == "ValueError: "


@pytest.fixture
def fake(monkeypatch):
    """Let prepared steps run once, uncaptured, and take 1, 2 and 4 us; returns the order in which they ran."""
    ran = []

    def interleave(steps, repetitions, device):
        for key, step in steps.items():
            ran.append(key)
            step()
        return {key: [1.0, 2.0, 4.0] for key in steps}, []

    monkeypatch.setattr(align, "ready", lambda call, mode, device: call)
    monkeypatch.setattr(align, "interleave", interleave)
    monkeypatch.setattr(
        align, "trace", lambda calls, *rest, **options: {n: [("other|a", 1.5), ("other|b", 0.5)] for n in calls}
    )
    monkeypatch.setattr(align, "launch_nothing", lambda *a: None)
    align._floor.cache_clear()
    yield ran
    align._floor.cache_clear()


CASE = align.AlignCase(tokens=9, E=16, topk=2, block_m=16)


def test_align_rows_time_every_algorithm_and_floor_in_every_mode(fake, interpreter):
    found = align.align_rows(CASE, ["torch_ref", "multi_block"], repetitions=3, modes=("graph", "eager"), device="cpu")
    assert [(r["algorithm"], r["mode"]) for r in found] == fake
    assert len({tuple(r[k] for k in align.KEY) for r in found}) == len(found) == 5 * 2
    row = next(r for r in found if r["algorithm"] == "multi_block" and r["mode"] == "graph")
    assert (row["median_us"], row["launches"]) == (2.0, 2)
    assert row["kernels_warm_us"] == [("a", 1.5), ("b", 0.5)]
    ids = routing.synthetic("uniform", 9, 16, 2).topk_ids
    padded = 16 * len(set(ids.flatten().tolist()))  # 18 pairs in 16-row tiles: one tile an expert
    assert (row["rows_useful"], row["rows_padded"]) == (18, padded)
    assert row["minimum_bytes"] == 4 * (18 + padded + padded // 16 + 1)
    assert {r["launches"] for r in found if r["algorithm"] == "(2 empty)"} == {2}


def test_align_rows_without_kernels_leave_launches_open(fake):
    found = align.align_rows(CASE, ["torch_ref"], repetitions=1, device="cpu", kernels=False)
    mine = [r for r in found if r["algorithm"] == "torch_ref"]
    assert {r["launches"] for r in mine} == {None}
    assert {r["error"] for r in mine} == {None}


def test_align_rows_of_a_wrong_algorithm_are_errors_and_the_rest_is_timed(fake, monkeypatch):
    wrong = plugins.load("align", "small")
    monkeypatch.setattr(wrong, "align", lambda ids, block_m, E, out=None: out.alignment)
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    found = align.align_rows(CASE, ["small", "torch_ref"], repetitions=1, modes=("graph",), device="cpu")
    by = {r["algorithm"]: r for r in found}
    assert "gives a wrong result" in by["small"]["error"]
    assert by["small"]["median_us"] is None
    assert by["torch_ref"]["median_us"] == 2.0


@pytest.mark.parametrize("spec", ["uniform", "zipf:1.0", "hot", "balanced"])
def test_ids_of_fewer_experts_a_token_are_the_same_as_drawn_alone(spec):
    case = align.AlignCase(33, 16, 2, routing=spec, seed=3)
    alone = routing.synthetic(spec, 33, 16, 2, seed=3).topk_ids
    assert torch.equal(align._ids(case, 8, torch.device("cpu")), alone)


def test_align_cases_leave_out_more_experts_a_token_than_there_are():
    settings = {"experts": [4, 8], "topk": [1, 8], "tokens": [1], "block_m": [16], "routing": ["uniform"], "seed": 0}
    assert [(c.E, c.topk) for c in align.align_cases(settings)] == [(4, 1), (8, 1), (8, 8)]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run the benchmark's command on a machine that seems to have a GPU; returns the path of its result."""

    def run(*arguments, align_rows):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(record, "gpu", lambda device: {"name": "NVIDIA H200"})
        monkeypatch.setattr(
            results, "measured", lambda device, dtype: {"roofs": {"copy_bytes_per_s": 4.2e12}, "l2": {}}
        )
        monkeypatch.setattr(align, "align_rows", align_rows)
        parser = argparse.ArgumentParser()
        align_command.add(parser.add_subparsers())
        out = tmp_path / "out.json"
        with contextlib.suppress(RuntimeError):
            align_command.run(parser.parse_args(["bench-align", "--out", str(out), *arguments]))
        return out

    return run


def row_of(case, *, error=None):
    return {"tokens": case.tokens, "E": case.E, "algorithm": "auto", "mode": "graph", "median_us": 1.0, "error": error}


SIZES = ["--tokens", "1,2,4", "--experts", "8", "--topk", "1,2"]


def test_bench_command_writes_lines_that_a_run_reads(command):
    asked = []

    def align_rows(case, algorithms, **options):
        asked.append((case.tokens, case.topk, options["kernels"], options["most_topk"]))
        return [row_of(case)]

    path = command(*SIZES, "--kernels", "2", align_rows=align_rows)
    result = rows.read_result(path)
    assert rows.is_result(path)
    assert result.complete is True
    assert [r["tokens"] for r in result.rows] == [1, 1, 2, 2, 4, 4], "cases that share their ids follow one another"
    assert asked == [(m, k, m == 2, 2) for m in (1, 2, 4) for k in (1, 2)]
    assert result.header["gpu"]["copy_bytes_per_s"] == 4.2e12
    assert result.header["command"] == ["python", "-m", "moe_lab.gpu", "bench-align", *SIZES, "--kernels", "2"]
    assert set(result.header["settings"]["algorithms"]) <= set(plugins.names("align"))


def test_bench_command_that_dies_leaves_the_cases_before(command):
    def align_rows(case, algorithms, **options):
        if case.tokens == 4:
            raise RuntimeError("illegal memory access")
        return [row_of(case)]

    result = rows.read_result(command(*SIZES, align_rows=align_rows))
    assert [r["tokens"] for r in result.rows] == [1, 1, 2, 2]
    assert result.complete is False


def test_bench_options_survive_the_way_to_the_process():
    parser = argparse.ArgumentParser()
    bench_options.add("align", parser)
    assert bench_options.argv("align", parser.parse_args([])) == []
    argv = ["--modes", "graph,eager+allocation", "--repetitions", "7", "--seed", "1", "--table"]
    assert bench_options.argv("align", parser.parse_args(argv)) == argv


def test_bench_command_needs_a_gpu(tmp_path, monkeypatch, capsys):
    from moe_lab.gpu import __main__ as process

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert process.main(["bench-align", "--out", str(tmp_path / "x.json")]) == 2
    assert "No GPU is visible to torch" in capsys.readouterr().err
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
