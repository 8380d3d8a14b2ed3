"""The comm plugin ``symmetric``: its kernels on the CPU, with ranks as threads, and on two GPUs."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from builders import emulated, ranked

from moe_lab.gpu.comm import Between, Sizes, symmetric
from moe_lab.gpu.comm._wire import Wire
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import quantise
from moe_lab.gpu.ranks import RankedExperts
from moe_lab.gpu.routing import synthetic
from moe_lab.gpu.weights import DTYPES, expert_weights
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import marker

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
SILENT, CPU = marker("none"), torch.device("cpu")
E, TOPK, MOST = 7, 2, 7
K = 1152  # more than a warp sends at once, and not a multiple of it
PLACES = ((0, 1, 2), (3, 4, 1), (6, 5))  # rank 0 and 1 share expert 1


def inputs(problem, tokens, first=0, last=E):
    """x, weights and ids of a rank's tokens, whose experts are first to last; the last pair is dropped."""
    routing = synthetic("uniform", tokens, last - first, problem.topk, seed=tokens)
    x = torch.randn(tokens, problem.K, generator=torch.Generator().manual_seed(tokens)).to(DTYPES[problem.dtype])
    ids = routing.topk_ids + first
    ids[-1:, -1] = -1
    return x, routing.topk_weights, ids


@pytest.fixture
def rooms(monkeypatch):
    """Make the rooms of ranks in this process: three blocks of two warps."""
    monkeypatch.setattr(symmetric, "launch", emulated.launch)

    def make(format, wait_s=20):
        monkeypatch.setattr(symmetric, "WAIT_S", wait_s)
        sizes = Sizes(MOST, K, TOPK, format, CPU)
        plans = [symmetric.Plan(Wire(Parallel(PLACES, rank), sizes), 3, 64) for rank in range(len(PLACES))]
        memory = [torch.full((plan.at.end,), 77, dtype=torch.uint8) for plan in plans]
        begins = [part.data_ptr() for part in memory]
        return [symmetric.Room(plan, part, begins) for plan, part in zip(plans, memory, strict=True)]

    return make


def layer_of(problem, room):
    """The layer on a rank, by way of its room; each direction is repeated, as a benchmark of it does."""
    parallel = room.plan.wire.parallel

    def dispatch(x, ids, weights, mark):
        for _ in range(2):
            received = symmetric.dispatch(x, ids, weights, parallel=parallel, mark=mark, room=room)
        return received

    def combine(rows, received, mark):
        for _ in range(3):
            y = symmetric.combine(rows, received, mark=mark)
        return y

    between = SimpleNamespace(parallel=parallel, dispatch=dispatch, combine=combine, whole=False)
    return RankedExperts(problem, between, "torch_loop")


@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
def test_ranks_on_the_cpu_give_the_layer_of_one_process(format, rooms):
    """GIVEN uneven ranks, all tokens to one rank, no tokens WHEN they call again and again THEN all sums are right."""
    problem = MoEProblem(MOST, K, 16, E, TOPK, format)
    w13, w2 = (quantise(w, format) for w in expert_weights(problem, CPU, 0))
    cases = [([MOST, 3, 0], 0, E), ([0, 0, 0], 0, E), ([1, MOST, 5], 3, 5), ([0, 0, MOST], 0, 3), ([2, 2, 2], 0, E)]
    made = rooms(format)

    def one(room):
        layer, rank = layer_of(problem, room), room.plan.wire.parallel.rank
        own, results = layer.prepare(w13, w2), []
        for number, (tokens, first, last) in enumerate(cases):
            x, weights, ids = inputs(problem, tokens[rank], first, last)
            results.append(layer(x, own, weights, ids.long() if number % 2 else ids, SILENT))
        symmetric.check(room)
        return results

    with ThreadPoolExecutor(len(made)) as pool:
        found = list(pool.map(one, made))
    for number, (tokens, first, last) in enumerate(cases):
        for rank in range(len(PLACES)):
            x, weights, ids = inputs(problem, tokens[rank], first, last)
            wanted = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
            torch.testing.assert_close(found[rank][number], wanted, rtol=0.05, atol=0.05)


def test_a_rank_that_does_not_come_is_named_and_nobody_hangs(rooms):
    """GIVEN ranks that wait no time WHEN one stays away THEN the others end, name it, and say so again."""
    made = rooms("bf16", wait_s=0)
    problem = MoEProblem(MOST, K, 16, E, TOPK, "bf16")

    def one(room):
        layer = layer_of(problem, room)
        x, weights, ids = inputs(problem, 3, 3, 5)
        assert layer(x, layer.prepare(*expert_weights(problem, CPU, 0)), weights, ids, SILENT).shape == (3, K)

    one(made[0])
    for _ in range(2):
        with pytest.raises(UserError, match="Rank 1 sent nothing within 0 s"):
            symmetric.check(made[0])


@pytest.mark.parametrize(
    ("ranks", "format", "device", "said"),
    [
        (2, "bf16", CPU, "'symmetric' does not run on cpu"),
        (2, "fp32", torch.device("cuda"), "does not send fp32, only: fp16, bf16, fp8_block"),
        (33, "bf16", torch.device("cuda"), "up to 32 ranks of one host, not 33"),
        (2, "bf16", torch.device("cuda"), "on 2 ranks, but 0 are running"),
    ],
)
def test_what_it_cannot_send_is_refused_in_a_sentence(ranks, format, device, said):
    with pytest.raises(UserError, match=said):
        Between("symmetric", Parallel.contiguous(33, ranks), Sizes(MOST, K, TOPK, format, device))


def two_rooms(rank, format, most):
    """The layer of a rank of two with a GPU each, and all experts' weights."""
    problem, device = MoEProblem(most, K, 64, E, TOPK, format), torch.device("cuda", rank)
    w13, w2 = (quantise(w, format) for w in expert_weights(problem, device, 0))
    parallel = Parallel(((0, 1, 2, 3), (4, 5, 6, 1)), rank)
    return RankedExperts.make(problem, parallel, device, comm="symmetric", backend="torch_loop"), w13, w2


def captured(call, *arguments):
    """Return a CUDA graph's replay of a call, and what it returns."""
    call(*arguments, SILENT)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(*arguments, SILENT)
    return graph.replay, result


def results(layer, own, x, weights, ids):
    """The layer's result eagerly, and some of graphs of dispatch and combine."""
    send, received = captured(layer.between.dispatch, x, ids, weights)
    rows = layer.compute(received, own, SILENT)
    back, y = captured(layer.between.combine, rows, received)
    yield layer(x, own, weights, ids, SILENT)
    for _ in range(3):
        send()
        rows.copy_(layer.compute(received, own, SILENT))
        back()
        yield y.clone()
    layer.between.check()


def errors_on(rank):
    """Largest differences from the layer of one process, in two formats, with uneven ranks."""
    found = []
    for format in ("bf16", "fp8_block"):
        layer, w13, w2 = two_rooms(rank, format, most=300)
        own = layer.prepare(w13, w2)
        for tokens, first, last in [((300, 5), 0, E), ((0, 0), 0, E), ((131, 0), 4, 6), ((7, 300), 0, E)]:
            x, weights, ids = (t.to(f"cuda:{rank}") for t in inputs(layer.problem, tokens[rank], first, last))
            wanted = torch_loop.experts(x, w13, w2, weights, ids, problem=layer.problem, mark=SILENT)
            differences = (y - wanted for y in results(layer, own, x, weights, ids))
            found += [float(d.abs().max()) if len(d) else 0.0 for d in differences]
    return found


@pytest.mark.gpu
@two_gpus
def test_two_gpus_give_the_layer_of_one(tmp_path):
    for found in ranked.run(2, errors_on, tmp_path, 60, gpus=True):
        assert max(found) < 0.1, found


def waits_on(rank):
    """What a rank is told after it came alone, as the other had too many tokens."""
    symmetric.WAIT_S = 2
    layer, w13, w2 = two_rooms(rank, "bf16", most=8)
    x, weights, ids = (t.to(f"cuda:{rank}") for t in inputs(layer.problem, 8 + rank))
    try:
        layer(x, layer.prepare(w13, w2), weights, ids, SILENT)
        layer.between.check()
    except UserError as error:
        said = str(error)
    torch.distributed.barrier()
    return said


@pytest.mark.gpu
@two_gpus
def test_a_rank_with_too_many_tokens_is_told_so_and_the_other_does_not_hang(tmp_path):
    first, second = ranked.run(2, waits_on, tmp_path, 60, gpus=True)
    assert first == "Rank 1 sent nothing within 2 s; see what its process says."
    assert second.startswith("Rank 1 has 9 tokens, but the buffers of 'symmetric' hold 8")
