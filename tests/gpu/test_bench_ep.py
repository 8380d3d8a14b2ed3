"""The benchmark of several ranks, with gloo on the CPU."""

import argparse
import json
import os
import sys

import pytest

torch = pytest.importorskip("torch")

from builders import ranked

from moe_lab.gpu import launch
from moe_lab.gpu.__main__ import main, parser
from moe_lab.gpu.bench import ep, ep_command
from moe_lab.gpu.bench.load import Load
from moe_lab.gpu.comm._wire import check_even
from moe_lab.gpu.kernels.ping import ping
from moe_lab.runs import bench_runs
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem

CPU = torch.device("cpu")
BOTH = ["allgather_reducescatter", "nccl_all_to_all"]
SIZES = [
    "--device",
    "cpu",
    "--model",
    "128x16x4x2",
    "--format",
    "fp32",
    "--backend",
    "torch_loop",
    "--repetitions",
    "2",
]


# Experts and both ways in one call, of which a benchmark sees no parts.
WHOLE = """
from dataclasses import replace

from moe_lab.gpu.comm import allgather_reducescatter as ways
from moe_lab.gpu.experts import torch_loop

INFO = {"kind": "comm", "about": "x", "layout": "standard", "ranks": "any", "stages": [], "whole": True}


def prepare(parallel, sizes):
    return ways.prepare(parallel, sizes), sizes.problem


def weights(w13, w2):
    return [w13, w2]


def layer(x, weights, topk_weights, topk_ids, *, parallel, mark, room):
    got = ways.dispatch(x, topk_ids, topk_weights, parallel=parallel, mark=mark, room=room[0])
    own = replace(room[1], M=len(got.x), E=len(parallel.local))
    rows = torch_loop.experts(got.x, *weights, got.topk_weights, got.topk_ids, problem=own, mark=mark, share=0.5)
    return ways.combine(rows, got, mark=mark)
"""


def options(out, *words) -> argparse.Namespace:
    return parser().parse_args(["bench-ep", *SIZES, "--comm", ",".join(BOTH), "--out", str(out), *words])


@pytest.fixture(scope="module")
def measured(tmp_path_factory, interpreter):
    """Header and rows of two ranks where tokens have a shared expert and the experts 0 and 1, both on rank 0."""
    folder = tmp_path_factory.mktemp("ep")
    replay, out, plugin = folder / "ids.pt", folder / "rows.jsonl", folder / "whole.py"
    torch.save(torch.tensor([[0, 1]] * 10), replay)
    plugin.write_text(WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.FILES, str(plugin))
        words = ["--m", "5", "--shared", "1", "--routing", f"replay:{replay}", "--comm", ",".join([*BOTH, "whole"])]
        given = options(out, *words)
        ranked.run(2, lambda rank: ep_command.measure(given, rank, CPU), folder)
    return out


def test_each_way_and_part_has_a_row_with_times_of_the_slowest_rank(measured):
    header, *rows, end = (json.loads(line) for line in measured.read_text().splitlines())
    assert end == {"complete": True}
    parts = [(comm, part) for comm in BOTH for part in (*ep.PARTS, *ep.SHARED_PARTS)]
    whole = [("whole", part) for part in ("full", "shared", "overlapped")]
    assert [(row["comm"], row["part"]) for row in rows] == [*parts, *whole]
    assert [rows[0]["backend"], rows[-1]["backend"]] == ["torch_loop", "whole"], "which computes the experts"
    assert rows[-3]["ranks_us"] is None, "it has no parts"
    assert all(row["median_us"] > 0 and row["correct"] and row["error"] is None for row in rows)
    assert {(row["E"], row["topk"], row["shared"], row["model"]) for row in rows} == {(4, 2, 1, "128x16x4x2+1")}
    by_rank = dict(rows[0]["ranks_us"])
    parts = ["dispatch", "experts", "combine", "dispatch alone", "combine alone"]
    assert list(by_rank) == [f"{rank}|{part}" for rank in (0, 1) for part in parts]
    assert by_rank["0|experts"] > by_rank["1|experts"], "rank 1 has no pairs"
    assert (rows[0]["rank_rows"], rows[0]["expert_rows"]) == ([["0", 20], ["1", 0]], [["0", 10], ["1", 10]])
    assert [row["part"] for row in rows if row.get("expert_rows")] == ["full"], "once a case"
    assert [(link["source"], link["target"]) for link in header["measured"]["links"]] == [(0, 1), (1, 0)]


def test_bytes_and_floor_are_of_what_must_travel_over_its_link(measured):
    """GIVEN only rank 1's five tokens must travel THEN all_to_all sends them alone, all_gather those of both ranks."""
    header, *rows, _ = (json.loads(line) for line in measured.read_text().splitlines())
    away = {link["source"]: link for link in header["measured"]["links"]}
    size = 5 * 128 * 4
    floors = {r: size / link["bytes_per_s"] * 1e6 + link["trip_us"] for r, link in away.items()}
    of = {(row["comm"], row["part"]): row for row in rows}
    for comm in BOTH:
        there, back, full = (of[comm, part] for part in ("dispatch", "combine", "full"))
        assert there["needed_bytes"] == there["sent_bytes"] == back["sent_bytes"] == size
        assert there["floor_us"] == pytest.approx(floors[1], abs=1e-3), "rank 1's tokens go to rank 0"
        assert back["floor_us"] == pytest.approx(floors[0], abs=1e-3)
        assert full["needed_bytes"] == 2 * size
        assert full["floor_us"] is None, "no roof of the experts on the CPU"
    assert of[BOTH[0], "experts"]["needed_bytes"] is None


def test_shared_experts_are_hidden_behind_what_travels_or_it_behind_them():
    """GIVEN 5 us of travel, of routed and of shared experts each THEN 15 in a row, 10 if two of them overlap."""
    problem = MoEProblem(1000, 1024, 512, 5, 2, "bf16", shared=1)
    rows, roofs = [[0, 1000], [1000, 0]], {"read_bytes_per_s": 1e18, "matmul_flops_per_s": 6 * 1000 * 1024 * 512 / 5e-6}
    links = [{"source": a, "target": 1 - a, "bytes_per_s": 2 * 1000 * 1024 / 2e-6, "trip_us": 0.5} for a in (0, 1)]
    load = Load(problem, rows, pairs=[1000, 1000], hit=[2, 2], experts=[500] * 4, between=rows)
    floors = {
        part: load.rates(part, None, "needed", links, roofs)["floor_us"] for part in (*ep.PARTS, *ep.SHARED_PARTS)
    }
    assert floors == {
        "full": 15,
        "dispatch": 2.5,
        "experts": 5,
        "combine": 2.5,
        "shared": 5,
        "overlapped": 10,
        "fused": 15,
    }
    assert load.rates("overlapped", None, "needed", links, {})["floor_us"] is None


def test_a_way_that_sends_pairs_has_their_bytes_and_the_floor_of_tokens():
    """GIVEN 2 tokens of rank 0 with 5 pairs on rank 1 WHEN pairs travel THEN 5 rows do, though 2 would be enough."""
    problem = MoEProblem(2, 1024, 512, 5, 4, "bf16")
    load = Load(problem, [[0, 2], [1, 0]], [3, 5], [2, 2], [8], [[0, 5], [3, 0]])
    links = [{"source": a, "target": 1 - a, "bytes_per_s": 2 * 1024 / 1e-6, "trip_us": 0.5} for a in (0, 1)]
    sent = {sends: load.rates("dispatch", None, sends, links, {}) for sends in ("needed", "pairs", "all")}
    assert [rates["sent_bytes"] // 2048 for rates in sent.values()] == [2, 5, 2]
    assert {(rates["needed_bytes"], rates["floor_us"]) for rates in sent.values()} == {(2 * 2048, 2.5)}


def test_all_ways_are_those_whose_rows_the_backend_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_found", lambda module: True)
    words = ["bench-ep", "--out", str(tmp_path / "rows.jsonl"), "--backend"]
    found = {name: ep_command.comms(parser().parse_args([*words, name])) for name in ("hopper", "batched")}
    assert {*found["batched"]} - {*found["hopper"]} == {"deepep_low_latency"}
    assert {*found["hopper"]} < {*found["batched"]}


def test_rows_become_a_run(measured, tmp_path):
    run = bench_runs.import_bench([measured], "cpu/ep", root=tmp_path)
    rows = run.rows()
    assert run.manifest["bench"] == "ep"
    assert rows["ranks"].unique().tolist() == [2]
    assert rows["ranks_us"][0][0][0] == "0|dispatch"
    assert rows["part"].iloc[len(ep.PARTS)] == "shared"


def test_a_wrong_result_on_one_rank_leaves_its_way_out_on_all(tmp_path, monkeypatch):
    load, problem = plugins.load, MoEProblem(3, 128, 16, 4, 2, "fp32", model="128x16x4x2")

    def wrong(kind, name, *more):
        module = load(kind, name, *more)
        if name == BOTH[0] and torch.distributed.get_rank() == 1:
            right = module.combine
            monkeypatch.setattr(module, "combine", lambda *a, **k: 0 * right(*a, **k))
        return module

    monkeypatch.setattr(plugins, "load", wrong)

    def one(rank):
        plan = ep.EpPlan(BOTH, "torch_loop", 1)
        weights = ep.EpWeights(problem, CPU, 0)
        return ep.ep_rows(ep.EpCase(problem, "uniform", 0), plan, Parallel.contiguous(4, 2, rank), weights, CPU)

    first, second = ranked.run(2, one, tmp_path)
    assert first[0]["error"].startswith("rank 1: wrong: RMS error 1, allowed ")
    assert [row["error"] for row in first] == [row["error"] for row in second]
    assert first[0]["median_us"] is None
    assert first[4]["error"] is None
    assert first[4]["median_us"] > 0


def test_a_way_that_takes_equal_shares_only_has_no_row_of_shared_experts_among_them(tmp_path, monkeypatch, interpreter):
    from moe_lab.gpu.comm import allgather_reducescatter as way

    usual, problem = way.prepare, MoEProblem.preset("128x16x4x2", 3, "fp32", 1)

    def prepare(parallel, sizes):
        check_even("even", parallel)
        return usual(parallel, sizes)

    monkeypatch.setattr(way, "prepare", prepare)

    def one(rank):
        plan, weights = ep.EpPlan(BOTH[:1], "torch_loop", 1), ep.EpWeights(problem, CPU, 0)
        return ep.ep_rows(ep.EpCase(problem, "uniform", 0), plan, Parallel.contiguous(4, 2, rank), weights, CPU)

    rows = ranked.run(2, one, tmp_path)[0]
    assert [(row["part"], row["error"]) for row in rows] == [(part, None) for part in (*ep.PARTS, *ep.SHARED_PARTS[:2])]


def test_a_rank_that_stops_ends_the_others_and_is_named():
    program = "import os, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)"
    with pytest.raises(UserError, match="Rank 1 was killed by SIGKILL, see its message above; the other ranks were en"):
        launch.start(3, [sys.executable, "-S", "-c", program])


def test_ranks_are_started_with_the_options_that_were_given(tmp_path, monkeypatch, capsys):
    """GIVEN a process that is no rank WHEN it runs THEN ranks run the same command, and find that they are ranks."""
    started, out = [], tmp_path / "rows.jsonl"

    def start(ranks, argv):
        started.append((ranks, argv))
        out.write_text("{}\n{}\n{}\n")

    monkeypatch.setattr(launch, "start", start)
    words = ["bench-ep", *SIZES, "--ranks", "3", "--m", "1", "--out", str(out)]
    assert main(words) == 0
    assert started == [(3, [sys.executable, "-m", "moe_lab.gpu", *words])]
    assert json.loads(capsys.readouterr().out) == {"bench": "ep", "rows": 1, "out": "rows.jsonl"}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert launch.is_rank(3)
    assert not launch.is_rank(2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--comm", "nowhere"], "must be a list of"),
        (["--ranks", "5"], "4 experts cannot be shared by 5 ranks"),
        (["--placement", "three.json"], "places 4 experts on 3 ranks; needed are 4 on 2"),
        (["--out", "no/folder"], "does not exist; make it first"),
    ],
    ids=["comm", "ranks", "placement", "folder"],
)
def test_a_mistake_is_a_sentence_before_any_process_starts(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three.json").write_text("[[0, 1], [2], [3]]")
    assert main(["bench-ep", *SIZES, "--m", "1", "--out", "rows.jsonl", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_command_for_the_cpu_leaves_no_interpreter_to_a_later_one_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = []
    monkeypatch.setattr(launch, "again", lambda options: found.append(os.environ["TRITON_INTERPRET"]))
    assert main(["bench-ep", *SIZES, "--m", "1", "--out", str(tmp_path / "rows.jsonl")]) == 0
    assert found == ["1"]
    assert "TRITON_INTERPRET" not in os.environ


def test_ping_counts_to_its_last_round_and_gives_up_on_a_peer_that_does_not_come(device):
    flag, silent = (torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2))
    ping(flag, flag, 5, begins=True)  # a rank that answers itself
    assert flag.item() == 5
    ping(silent, flag, 5, begins=False, polls=3)
    assert silent.item() == 0
    assert flag.item() < 6


def right_between_two_gpus(words, out):
    """The comm plugins of a benchmark of two GPUs, all of which are right."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert main(["bench-ep", *words, "--repetitions", "3", "--out", str(out)]) == 0
    header, *rows, _ = (json.loads(line) for line in out.read_text().splitlines())
    assert len(header["measured"]["links"]) == 2
    assert [(row["comm"], row["error"]) for row in rows if row["error"]] == []
    return {row["comm"] for row in rows}


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
@pytest.mark.parametrize("routing", ["uniform", "hot"])
@pytest.mark.parametrize("backend", ["hopper", "batched"])
def test_every_way_between_two_gpus_is_right(backend, format, routing, tmp_path):
    out, sizes = tmp_path / "rows.jsonl", ["--model", "1024x256x32x4", "--m", "0,1,3,131,700", "--shared", "1"]
    words = [*sizes, "--format", format, "--routing", routing, "--backend", backend]
    here = ep_command.comms(parser().parse_args(["bench-ep", *words, "--out", str(out)]))
    here = {*here} - {"deepep_low_latency"}  # which takes other sizes
    assert right_between_two_gpus([*words, "--comm", ",".join(here)], out) >= set(BOTH)


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
@pytest.mark.parametrize("routing", ["uniform", "hot"])
def test_deepep_low_latency_between_two_gpus_is_right(format, routing, tmp_path):
    if why := plugins.unavailable("comm", "deepep_low_latency"):
        pytest.skip(why)
    sizes = ["--model", "2048x256x32x4", "--m", "0,1,3,131,508", "--format", format, "--routing", routing]
    words = [*sizes, "--backend", "batched", "--shared", "1", "--comm", "deepep_low_latency"]
    assert right_between_two_gpus(words, tmp_path / "rows.jsonl") == {"deepep_low_latency"}
