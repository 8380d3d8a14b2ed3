"""The experts benchmark: right before quick, a failure never loses the others, and its arithmetic."""

import argparse
import json
import os
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from moe_lab import cli, runs
from moe_lab.gpu import __main__ as command
from moe_lab.gpu.bench import cases, clock, examine, nvml, rates, roofs, stages, supervise
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.routing import synthetic
from moe_lab.runs import bench_runs, rows
from moe_lab.spec import bench_options, plugins
from moe_lab.spec.bench_options import listed, numbers
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import children
from moe_lab.spec.problem import MoEProblem

CPU = torch.device("cpu")
ROOFS = {"copy_bytes_per_s": 4e12, "read_bytes_per_s": 5e12, "matmul_flops_per_s": 700e12}


def case(M: int = 5, dtype: str = "fp32") -> cases.ExpertsCase:
    return cases.ExpertsCase(MoEProblem(M, 32, 16, 8, 2, dtype, "silu", "32x16x8x2"))


def measure(backends: list[str], **options) -> list[dict]:
    given = options.pop("case", case())
    plan = examine.Plan(backends, options.pop("parts", ("full",)), ("eager",), 3, roofs=ROOFS)
    return cases.experts_rows(given, plan, examine.Weights(given.problem, CPU, 0), device=CPU, **options)


@pytest.fixture
def backend(monkeypatch):
    """Put a backend made of a function of (y of the oracle's path) in place of a plugin."""

    def put(name: str, change, **info) -> None:
        from moe_lab.gpu.experts import torch_loop

        def experts(*tensors, problem, mark):
            return change(torch_loop.experts(*tensors, problem=problem, mark=mark))

        real = examine.load
        stated = {"formats": ["fp32"], "activations": ["silu"], "cuda_graph": True} | info
        module = type("Module", (), {"experts": staticmethod(experts), "block_m": staticmethod(lambda problem: 16)})
        monkeypatch.setattr(examine, "load", lambda n: (module, stated) if n == name else real(n))

    return put


def test_rows_of_a_right_backend_have_times_errors_and_rates(interpreter) -> None:
    (row,) = measure(["fused_moe"])
    assert row["error"] is None
    assert row["correct"] is True
    assert 0 < row["error_max_rel"] <= row["bound_max_rel"] < 1e-5
    assert row["p20_us"] <= row["median_us"] <= row["p80_us"]
    ids = synthetic("uniform", 5, 8, 2, seed=0).topk_ids
    hit = len(set(ids.flatten().tolist()))
    assert (row["experts_hit"], row["rows_useful"], row["rows_padded"]) == (hit, 10, 16 * hit)
    assert row["padding_waste_pct"] == pytest.approx(100 * (16 * hit / 10 - 1))
    assert row["rows_most"] == int(ids.flatten().bincount().max())
    assert row["minimum_bytes"] == case().problem.minimum_bytes(hit)
    assert (row["sm_mhz"], row["throttled"], row["workspace_bytes"], row["kernels_us"]) == (None,) * 4, "not known: NA"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y * 1.01, "wrong: largest error 0.01"),
        (lambda y: y.index_fill(0, torch.tensor([3]), float("nan")), "wrong: largest error inf"),
        (lambda y: y[:-1], "wrong: largest error inf"),
        (lambda y: (_ for _ in ()).throw(RuntimeError("no kernel\nimage")), "RuntimeError: image"),
    ],
    ids=["one-percent-off", "a-row-of-nan", "a-row-missing", "raises"],
)
def test_a_wrong_backend_is_never_timed_and_the_others_are(backend, change, said: str) -> None:
    backend("bad", change)
    found = {row["backend"]: row for row in measure(["bad", "torch_loop"], parts=("full", "w13"))}
    rows_of_bad = measure(["bad"], parts=("full", "w13"))
    assert said in found["bad"]["error"]
    assert [row["median_us"] for row in rows_of_bad] == [None, None]
    assert all(said in row["error"] for row in rows_of_bad), "its parts are not timed either"
    timed = [row for row in measure(["bad", "torch_loop"]) if row["backend"] == "torch_loop"]
    assert timed[0]["median_us"] > 0


def test_a_wrong_backend_keeps_its_error_as_a_number(backend) -> None:
    backend("bad", lambda y: y * 1.01)
    (row,) = measure(["bad"])
    assert row["correct"] is False
    assert row["error_rms_rel"] == pytest.approx(0.01, rel=1e-3)


def test_what_a_backend_does_not_take_is_said_before_it_runs(backend, monkeypatch) -> None:
    monkeypatch.setenv("MOE_LAB_PEERS", os.devnull)  # a machine without DeepGEMM
    backend("picky", lambda y: pytest.fail("must not run"), formats=["bf16"])
    assert measure(["picky"])[0]["error"] == "picky does not take fp32 here, only: bf16."
    backend("picky", lambda y: pytest.fail("must not run"), activations=["gelu"])
    assert measure(["picky"])[0]["error"] == "picky does not have silu, only: gelu."
    assert "unavailable: needs deep_gemm" in measure(["deep_gemm"])[0]["error"]


def test_left_out_backends_are_rows_with_the_reason(device) -> None:
    found = measure(["fused_moe", "torch_loop"], left_out={"fused_moe": "it crashed"})
    assert [(row["backend"], row["error"]) for row in found] == [("fused_moe", "it crashed"), ("torch_loop", None)]


def test_a_case_that_nothing_may_run_in_needs_no_oracle(monkeypatch) -> None:
    monkeypatch.setattr(cases, "Oracle", lambda *a: pytest.fail("must not run: it is what failed"))
    found = measure(["fused_moe", "torch_loop"], left_out=dict.fromkeys(("fused_moe", "torch_loop"), "out of memory"))
    assert [(row["error"], row["bound_max_rel"]) for row in found] == [("out of memory", None)] * 2


def test_read_takes_in_every_element(device) -> None:
    from moe_lab.gpu.kernels.read import partial_sums, read

    x = torch.arange(3 * 8192 + 5, dtype=torch.int32, device=device)
    for each, block, num_warps, chunked in roofs.PATTERNS:
        for passes in (1, 3):
            sums = partial_sums(x.device, each)
            sums.fill_(-1)  # each program must write its own
            read(x, sums, passes, block=block, num_warps=num_warps, chunked=chunked)
            assert int(sums.sum()) == passes * int(x.long().sum())


def test_a_roof_is_the_fastest_repetition_and_that_of_a_product_what_lasts() -> None:
    rate = roofs.Rate.fastest(4_000_000_000, [2e-3, 1e-3, 4e-3], "reads")
    assert (rate.value, rate.low, rate.high, rate.repetitions) == (4 * 10**12, 10**12, 4 * 10**12, 3)
    rate = roofs.Rate.sustained(6_000_000, [1e-6, 1e-6, 2e-6, 3e-6, 4e-6], "products")
    assert (rate.value, rate.low, rate.high, rate.repetitions) == (2 * 10**12, 15 * 10**11, 6 * 10**12, 5)
    assert rate.spread() == {"low": rate.low, "high": rate.high, "repetitions": 5, "how": "products"}


def test_roofs_are_measured_by_the_best_pattern_and_state_their_spread(monkeypatch) -> None:
    took = iter(range(1000))

    def seconds(call, repeats):
        call()
        return [1e-3 / (1 + next(took)), 2e-3]

    reads = []
    monkeypatch.setattr(roofs, "seconds", seconds)
    monkeypatch.setattr(roofs, "copy_seconds", lambda device, size, repeats: [1e-3, 2e-3])
    monkeypatch.setattr(roofs, "read", lambda x, sums, passes, **pattern: reads.append((4 * x.numel(), passes)))
    monkeypatch.setattr(roofs, "l2_cache_bytes", lambda device: 1 << 12)
    monkeypatch.setattr(roofs, "READ", (1 << 13, 1 << 14))
    monkeypatch.setattr(roofs, "SIZE", 16)
    found = roofs.measure(CPU, torch.float32, torch.bfloat16)
    names = ("copy_bytes_per_s", "read_bytes_per_s", "l2_read_bytes_per_s", "matmul_flops_per_s", "bf16_flops_per_s")
    assert set(found["spread"]) == set(names)
    for name in names:
        assert found["spread"][name]["low"] <= found[name] <= found["spread"][name]["high"], name
    assert set(reads) == {(1 << 13, 1), (1 << 14, 1), (1 << 10, roofs.PASSES), (1 << 9, roofs.PASSES)}
    assert found["read_bytes_per_s"] == found["spread"]["read_bytes_per_s"]["high"]
    assert "in the L2 cache" in found["spread"]["l2_read_bytes_per_s"]["how"]


def test_weights_are_prepared_once_for_all_cases(backend) -> None:
    made = []

    class Prepares:
        @staticmethod
        def prepare(w13, w2):
            made.append(1)
            return w13 + 0, w2

    weights = examine.Weights(case().problem, CPU, 0)
    first, again = (weights.of("x", Prepares) for _ in range(2))
    assert first is again
    assert made == [1]
    assert weights.of("y", object())[0] is weights.w13


def test_oracle_bound_follows_the_dtype() -> None:
    bounds = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        g = torch.Generator().manual_seed(0)
        tensors = (torch.randn(*s, generator=g).to(dtype) for s in ((9, 32), (4, 32, 32), (4, 32, 16)))
        oracle = Oracle(Inputs(*tensors, *synthetic("uniform", 9, 4, 2)), MoEProblem(9, 32, 16, 4, 2))
        bounds[dtype] = oracle.bound.max_rel
    assert bounds[torch.float32] < 1e-5 < bounds[torch.float16] < 1e-2 < 4 * bounds[torch.bfloat16] < 0.4


def test_rates_are_work_over_time_and_over_the_roofs() -> None:
    problem = MoEProblem(1024, 2048, 768, 128, 8)
    got = rates.rates(problem, 128, 16384, "full", 500.0, ROOFS)
    flops, size = 6 * 8192 * 768 * 2048, 2 * (3 * 128 * 768 * 2048 + 2 * 1024 * 2048)
    assert got["useful_tflops_per_s"] == pytest.approx(flops / 500e-6 / 1e12, rel=1e-3)
    assert got["executed_tflops_per_s"] == pytest.approx(2 * flops / 500e-6 / 1e12, rel=1e-3)
    assert got["padding_waste_pct"] == 100
    assert got["roofline_us"] == pytest.approx(size / 5e12 * 1e6, rel=1e-3), "the faster of copy and read"
    assert (got["bound_by"], got["pct_of_copy"]) == ("memory", pytest.approx(100 * size / 500e-6 / 4e12, rel=1e-3))
    assert got["pct_of_roofline"] == pytest.approx(100 * size / 5e12 / 500e-6, rel=1e-3)
    again = max(size / got["roof_bytes_per_s"], flops / got["roof_flops_per_s"]) * 1e6
    assert again == pytest.approx(got["roofline_us"], rel=1e-3), "a row's own roofs derive its bound again"
    without = rates.rates(problem, 128, None, "full", None, {})
    assert [without[c] for c in ("pct_of_roofline", "roof_bytes_per_s", "roof_flops_per_s")] == [None] * 3


def test_fused_stages_move_less() -> None:
    p = MoEProblem(10, 64, 32, 4, 2)
    assert stages.minimum_bytes(p, 4, "full") == p.minimum_bytes(4)
    assert stages.minimum_bytes(p, 4, "w13") - stages.minimum_bytes(p, 4, "w13+act") == 2 * 20 * 32
    assert stages.minimum_bytes(p, 4, "w2") - stages.minimum_bytes(p, 4, "w2+combine") == 2 * (20 - 10) * 64
    w13 = rates.rates(p, 4, 32, "w13+act", 1.0, ROOFS)
    assert w13["useful_gflop"] == pytest.approx(4 * 20 * 32 * 64 / 1e9)


class FakeGraph:
    replays = 0

    def replay(self) -> None:
        FakeGraph.replays += 1


@pytest.fixture
def no_capture(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    FakeGraph.replays = 0


def marked(*names: str):
    """GIVEN a backend that enters those stages and makes a tensor in each."""

    def call(mark):
        made = []
        for name in names:
            with mark(name):
                made.append(torch.full((2,), len(made)))
        return torch.stack(made)

    return call


def test_capture_takes_the_stage_that_holds_the_part_and_keeps_every_tensor(no_capture) -> None:
    stage = stages.capture(marked("align", "w13+act", "w2", "combine"), "w13", FakeGraph)
    assert (stage.name, FakeGraph.replays) == ("w13+act", 1), "launched once, so that the result went through it"
    assert len(stage.kept) >= 5
    assert stage.result.shape == (4, 2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("align+w13+act+w2",), "no separate stage for w13"),
        (("w13", "w13"), "entered several times"),
        ((), "no separate stage"),
    ],
)
def test_capture_refuses_what_is_not_one_stage(no_capture, names, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stages.capture(lambda mark: marked(*names)(mark) if names else torch.zeros(1), "w13", FakeGraph)


def test_traced_kernels_go_to_the_stage_whose_separator_they_follow() -> None:
    one = [("nothing_kernel", 1.0), ("read_kernel", 50.0), ("nothing_kernel", 1.0), ("fill", 2.0)]
    one += [("nothing_kernel", 1.0), ("gemm", 10.0), ("gemm2", 5.0), ("nothing_kernel", 1.0), ("tail", 1.5)]
    two = [(name, us * 3 if name == "gemm" else us) for name, us in one]
    entered = ["(flush)", "=a", "w13", "other"] * 3
    found = stages.sort_out([*one, *two, *one], entered, ["a"], 3)["a"]
    assert found == [("other|fill", 2.0), ("w13|gemm", 10.0), ("w13|gemm2", 5.0), ("other|tail", 1.5)]
    assert stages.sort_out(one, entered, ["a"], 3) == {"a": None}, "separators are missing: nothing is guessed"


def test_rounds_run_every_backend_once_in_orders_that_differ() -> None:
    ran = []
    steps = {key: (lambda key=key: ran.append(key)) for key in "abc"}
    times, samples = clock.interleave(steps, 4, CPU, None, lambda key: False)
    orders = ["".join(ran[i : i + 3]) for i in range(0, 12, 3)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert len(set(orders)) > 2
    assert {key: len(found) for key, found in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert samples == []


@pytest.mark.gpu
def test_on_a_gpu_rounds_that_do_not_count_come_first(device) -> None:
    ran = []
    times, _ = clock.interleave({"a": lambda: ran.append("a")}, 4, torch.device(device))
    assert len(ran) > len(times["a"]) == 4


def test_summary_of_the_clocks_keeps_the_reasons_and_leaves_unknown_open() -> None:
    samples = [nvml.Sample(1700, 3200, 60, 690.0, ("power cap",)), nvml.Sample(1900, 3200, 62, 640.0, ())]
    got = nvml.summary([*samples, nvml.Sample(1800, 3200, 61, 650.0, ())])
    assert got == {"sm_mhz": 1800, "memory_mhz": 3200, "temperature_c": 62, "power_w": 690.0, "throttled": "power cap"}
    assert nvml.summary(samples[1:])["throttled"] == "no"
    assert set(nvml.summary([]).values()) == {None}


def test_monitor_without_the_library_answers_nothing(monkeypatch) -> None:
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert nvml.Monitor("GPU-x").sample() == nvml.Sample(None, None, None, None, None)


def test_cold_is_a_measurement(monkeypatch) -> None:
    def cold(after_flush_s: float) -> dict:
        flushed = [False]
        monkeypatch.setattr(clock, "follow", lambda *a: flushed.__setitem__(0, False))
        monkeypatch.setattr(clock, "read_flush", lambda device: lambda: flushed.__setitem__(0, True))
        monkeypatch.setattr(clock, "l2_cache_bytes", lambda device: 1 << 22)

        def seconds(call, repeats):
            return [after_flush_s if flushed[0] else 3e-6]

        monkeypatch.setattr(clock, "seconds", seconds)
        return clock.verify_cold(CPU)

    assert {k: cold(6e-6)[k] for k in ("ratio", "cold")} == {"ratio": 2.0, "cold": True}
    assert cold(3.3e-6)["cold"] is False


@pytest.mark.parametrize(("numel", "steps"), [(64, 8), (100, 7)], ids=["divides", "does-not-divide"])
def test_chained_reads_visit_every_place_once(numel: int, steps: int, device: str) -> None:
    from moe_lab.gpu.kernels.read import chained, follow

    chain, end = chained(numel, steps, torch.device(device)), torch.full((1,), -1, dtype=torch.int32, device=device)
    at = []
    for count in range(1, steps + 1):
        follow(chain, end, count)
        at.append(int(end))
    assert sorted(at) == [i * (numel // steps) for i in range(steps)]
    assert at[-1] == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,4,...,16384", [2**i for i in range(15)]),
        ("16,256", [16, 256]),
        ("0,1,3,...,100", [0, 1, 3, 9, 27, 81, 100]),
    ],
)
def test_lists_of_tokens_go_on_as_they_began(text: str, values: list[int]) -> None:
    assert numbers(text) == values


@pytest.mark.parametrize("text", ["", "1,...,8", "4,2,...,1", "a", "1,2,...", "-1"])
def test_lists_of_tokens_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        numbers(text)
    with pytest.raises(UserError, match="must be a list of: full, w13, w2"):
        listed("full,w1", bench_options.PARTS)


def test_bench_options_survive_the_way_to_the_process() -> None:
    parser = argparse.ArgumentParser()
    bench_options.add("experts", parser)
    assert bench_options.argv("experts", parser.parse_args([])) == []
    argv = ["--m", "1,2,...,8", "--routing", "uniform,zipf:1.2", "--repetitions", "7", "--device", "cpu"]
    asked = parser.parse_args(argv)
    assert bench_options.argv("experts", asked) == argv
    child = command.parser().parse_args(["bench-experts", *argv, "--out", "x"])
    assert vars(child).items() >= vars(asked).items()


def test_blame_falls_on_the_backend_that_was_noted() -> None:
    state, deaths = supervise.State(), Counter[str]()
    state.learn({"case": [1], "backend": "a", "step": "check"}, "was killed by SIGSEGV", deaths)
    assert "SIGSEGV in a (check)" in state.reasons([1], ["a", "b"])["a"]
    assert state.reasons([2], ["a", "b"]) == {}, "the first time, only that case"
    state.learn({"case": [2], "backend": "a", "step": "check"}, "hung for 9 s", deaths)
    assert "2 times" in state.reasons([3], ["a", "b"])["a"]
    state.learn({"case": [3], "backend": "", "step": "time"}, "died", deaths)
    assert (state.careful, state.reasons([3], ["b"])) == ([[3]], {}), "tried again, each call noted"
    state.learn({"case": [3], "backend": "b", "step": "time full graph"}, "died", deaths)
    assert set(state.reasons([3], ["a", "b"])) == {"a", "b"}
    state.learn({"case": [4], "backend": "", "step": "trace"}, "died", deaths)
    assert state.no_trace
    state.learn({"case": [5], "backend": "", "step": "oracle"}, "died", deaths)
    assert set(state.reasons([5], ["b", "c"])) == {"b", "c"}
    state.learn({"case": [6], "backend": "", "step": "weights"}, "died", deaths)
    assert set(state.reasons([6], ["b"])) == {"b"}, "weights that do not fit are not tried again in that case"


# A measuring process in place of ours: cases 1 and 2; backend "bad" kills it in case 2 as the test says.
WORKER = """
import json, os, signal, sys, time
value = lambda name: sys.argv[sys.argv.index(name) + 1]
out, state = value("--out"), json.load(open(value("--state")))
row = lambda M, backend, error=None: json.dumps({{
    "model": "m", "M": M, "format": "fp32", "routing": "u", "seed": 0, "backend": backend, "error": error}}) + "\\n"
key = lambda M: ["m", M, "fp32", "u", 0]
done = open(out).read() if os.path.exists(out) else ""
file = open(out, "a")
if not done:
    file.write(json.dumps({{"bench": "experts"}}) + "\\n")
for M in (1, 2, 3):
    if '"M": %d,' % M in done:
        continue
    open(value("--state") + ".now", "w").write(json.dumps({{"case": key(M), "backend": "bad", "step": "check"}}))
    left = {{who: why for where, who, why in state["left_out"] if where in ("*", key(M))}}
    if M >= 2 and "bad" not in left:
        file.write('{{"torn'); file.flush()
        {end}
    file.write(row(M, "bad", left.get("bad")) + row(M, "good")); file.flush()
file.write(json.dumps({{"complete": True}}) + "\\n")
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"), ("time.sleep(60)", "hung for 0.5 s")],
    ids=["crashes", "hangs"],
)
def test_a_crash_never_loses_the_others(monkeypatch, tmp_path: Path, capsys, end: str, said: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(end=end))
    popen = children.subprocess.Popen
    started = []

    def start(argv, **options):
        out = Path(argv[argv.index("--out") + 1])
        supervise.resume(out)
        started.append(argv)
        return popen([sys.executable, str(script), *argv[3:]], **options)

    monkeypatch.setattr(children.subprocess, "Popen", start)
    lines = supervise.supervise(["--m", "1,2,3"], tmp_path / "out.json", 0.5 if "hung" in said else 20)
    assert len(started) == 3, "once for all, then after each of two deaths"
    found = [(line["M"], line["backend"], line["error"]) for line in lines]
    assert [entry[:2] for entry in found] == [(M, name) for M in (1, 2, 3) for name in ("bad", "good")]
    assert found[0][2] is None
    assert said in found[2][2]
    assert "2 times" in found[4][2]
    assert [line["error"] for line in lines if line["backend"] == "good"] == [None] * 3
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_restart_goes_on_with_the_first_case_that_has_no_rows(tmp_path: Path) -> None:
    """Cases are told apart by the columns that rows have: one that were missing in them would be measured again."""
    out, measured = tmp_path / "out.json", case(M=4)
    problem = measured.problem
    row = {"model": problem.model, "M": 4, "format": problem.format, "routing": "uniform", "seed": 0, "backend": "x"}
    out.write_text(json.dumps({"bench": "experts"}) + "\n" + json.dumps(row) + '\n{"torn')
    assert supervise.resume(out) == [measured.key]
    assert out.read_text().endswith("}\n")


def test_a_process_that_never_begins_is_not_started_again(monkeypatch, tmp_path: Path) -> None:
    popen = children.subprocess.Popen
    monkeypatch.setattr(children.subprocess, "Popen", lambda argv, **k: popen([sys.executable, "-c", "exit(3)"], **k))
    with pytest.raises(UserError, match="stopped with exit code 3 before its first case"):
        supervise.supervise([], tmp_path / "out.json", 9)


def test_bench_experts_makes_a_run_that_reads_back(tmp_path: Path, monkeypatch, capfd) -> None:
    """The whole way on the CPU: two processes and formats, one right backend, two that are missing, the rows as a run.

    Of several formats a backend is asked for those that it takes, and one that takes none of them for all.
    """
    argv = ["bench", "experts", "--device", "cpu", "--format", "fp32,fp8_token", "--model", "32x16x8x2", "--m", "1,2"]
    argv += ["--parts", "full", "--repetitions", "2", "--backends", "torch_loop,cutlass_fp8,deep_gemm"]
    argv += ["--name", "cpu/x"]
    assert cli.main([*argv, "--profiles", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'cpu' / 'x'}\n"
    assert "6 of 10 rows have an error" in err
    assert "4/4" not in err, "no progress bar into a pipe"
    run = runs.load("cpu/x", root=tmp_path)
    table = run.rows()
    asked = {"fp32": ["torch_loop", "deep_gemm"], "fp8_token": ["torch_loop", "cutlass_fp8", "deep_gemm"]}
    assert table["backend"].tolist() == [*asked["fp32"] * 2, *asked["fp8_token"] * 2]
    assert table.groupby("format")["backend"].unique().map(list).to_dict() == asked
    assert table["median_us"].isna().tolist() == [name != "torch_loop" for name in table["backend"]]
    assert run.manifest["bench"] == "experts"
    assert run.manifest["rows"]["complete"] is True
    assert run.manifest["command"][:4] == ["moe-lab", "bench", "experts", "--model"]
    assert rows.read(run.report, run.manifest["rows"])["M"].tolist() == [1, 1, 2, 2, 1, 1, 1, 2, 2, 2]


def test_bench_experts_keeps_what_was_measured_of_the_gpu(tmp_path: Path) -> None:
    import sweep_builder

    path = sweep_builder.write(tmp_path / "a.json", sweep_builder.rows([16]))
    run = bench_runs.import_bench([path], "x", root=tmp_path)
    assert run.manifest["measured"] == {"roofs": sweep_builder.ROOFS, "l2": sweep_builder.COLD}
    assert isinstance(run.rows()["kernels_us"].iloc[0][0], tuple)


def test_bench_experts_refuses_unknown_names_before_it_starts(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(supervise, "supervise", lambda *a: pytest.fail("must not start"))
    for option, said in (
        (["--backends", "nope"], "No experts plugin is called 'nope'"),
        (["--model", "nope"], "No model preset is called 'nope'"),
        (["--routing", "nope"], "Routing 'nope' is unknown"),
    ):
        assert command.main(["bench-experts", *option, "--out", str(tmp_path / "x")]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["bench-experts", "--parts", "w3", "--out", str(tmp_path / "x")])
    assert "must be a list of: full, w13, w2" in capsys.readouterr().err
    assert json.dumps(list(map(str, tmp_path.iterdir()))) == "[]"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in plugins.names("experts") if plugins.info("experts", n).get("cuda_graph")])
def test_bench_measures_parts_kernels_and_clocks_on_a_gpu(name: str, device) -> None:
    if plugins.unavailable("experts", name):
        pytest.skip("not installed here")
    gpu, known = torch.device("cuda", torch.cuda.current_device()), plugins.info("experts", name)["formats"]
    format = "bf16" if "bf16" in known else known[0]
    given = cases.ExpertsCase(MoEProblem(64, 256, 128, 16, 4, format, "silu", "256x128x16x4"))
    plan = examine.Plan([name], ("full", "w13", "w2"), ("graph", "eager"), 5, roofs=ROOFS)
    monitor = nvml.Monitor(f"GPU-{torch.cuda.get_device_properties(gpu).uuid}")
    found = cases.experts_rows(given, plan, examine.Weights(given.problem, gpu, 0), device=gpu, monitor=monitor)
    full = [row for row in found if row["part"] == "full"]
    assert [row["error"] for row in full] == [None, None]
    assert full[0]["kernels_us"]
    assert full[0]["workspace_bytes"] > 0
    assert all(row["median_us"] > 0 for row in found if row["part"] != "full" and not row["error"])
