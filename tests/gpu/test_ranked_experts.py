"""Dispatch, experts and combine on several ranks give the layer of one process."""

import pytest

torch = pytest.importorskip("torch")

from builders import ranked

from moe_lab.gpu import ranks
from moe_lab.gpu.experts import fused_moe, torch_loop
from moe_lab.gpu.formats import quantise
from moe_lab.gpu.layer import DecoderLayer, Shape
from moe_lab.gpu.ranks import RankedExperts
from moe_lab.gpu.routing import synthetic
from moe_lab.gpu.weights import DTYPES, expert_weights
from moe_lab.spec import models, plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import Attention, Model, Router
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import marker

SILENT, CPU = marker("none"), torch.device("cpu")
BETWEEN = [
    name
    for name in plugins.names("comm")
    if plugins.info("comm", name)["ranks"] == "any" and "cpu" in plugins.info("comm", name).get("devices", ["cpu"])
]
E, TOPK, MOST = 7, 2, 13
# Rank 1 and 2 share expert 3, rank 0 and 2 expert 0; rank 3 has no experts.
PLACES = ((0, 1, 2), (3, 4), (6, 5, 3, 0), ())


def inputs(problem, tokens, first=0, last=E):
    """x, weights and ids of a rank's tokens, whose experts are first to last."""
    routing = synthetic("uniform", tokens, last - first, problem.topk, seed=tokens)
    x = torch.randn(tokens, problem.K, generator=torch.Generator().manual_seed(tokens))
    return x.to(DTYPES[problem.dtype]), routing.topk_weights, routing.topk_ids + first


def close(y, wanted, format):
    """Assert that y is what one process gets; in e4m3 rows are rounded to bf16 once more before the experts."""
    torch.testing.assert_close(y, wanted, **({} if format == "fp32" else {"rtol": 0.05, "atol": 0.05}))


@pytest.mark.parametrize(
    ("comm", "format", "backend"),
    [
        *((comm, format, "torch_loop") for comm in BETWEEN for format in ("fp32", "fp8_block")),
        ("nccl_all_to_all", "fp8_block", "batched_loop"),  # rows by expert, of which there may be none
    ],
)
def test_ranks_together_give_the_layer_of_one_process(comm, format, backend, tmp_path, request):
    """GIVEN uneven ranks, all tokens to one rank, no tokens WHEN they run as ranks THEN each token gets its sum."""
    if backend == "batched_loop":
        request.getfixturevalue("interpreter")  # a kernel sorts its rows
    problem = MoEProblem(MOST, 128, 16, E, TOPK, format)
    w13, w2 = (quantise(w, format) for w in expert_weights(problem, CPU, 0))
    cases = [([MOST, 5, 0, 1], 0, E), ([4, 4, 4, 4], 3, 5), ([0, 0, 0, 0], 0, E), ([0, 0, MOST, 0], 0, E)]

    def one(rank):
        layer = RankedExperts.make(problem, Parallel(PLACES, rank), CPU, comm=comm, backend=backend)
        own, results = layer.prepare(w13, w2), []
        for tokens, first, last in cases:
            x, weights, ids = inputs(problem, tokens[rank], first, last)
            results.append((layer(x, own, weights, ids, SILENT), layer(x, own, weights, ids, SILENT)))
        return [[y.float().numpy() for y in both] for both in results]

    found = ranked.run(len(PLACES), one, tmp_path)
    for number, (tokens, first, last) in enumerate(cases):
        for rank in range(len(PLACES)):
            x, weights, ids = inputs(problem, tokens[rank], first, last)
            wanted = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT).float()
            for y in found[rank][number]:
                close(torch.from_numpy(y), wanted, format)


@pytest.mark.parametrize("comm", BETWEEN)
def test_a_token_travels_once_to_each_rank_and_ids_of_others_are_left_out(comm, tmp_path):
    problem = MoEProblem(MOST, 128, 16, 4, 3, "fp32")

    def one(rank):
        layer = RankedExperts.make(problem, Parallel.contiguous(4, 2, rank), CPU, comm=comm, backend="torch_loop")
        x, weights = torch.full((2, 128), float(rank + 1)), torch.ones(2, 3)
        ids = torch.tensor([[0, 1, 2], [0, 1, -1]], dtype=torch.int32)
        received = layer.between.dispatch(x, ids, weights, SILENT)
        local = [sorted(row) for row in received.topk_ids.tolist() if max(row) >= 0]
        return local, received.x[(received.topk_ids >= 0).any(dim=1)][:, 0].tolist()

    first, second = ranked.run(2, one, tmp_path)
    assert first == ([[-1, 0, 1], [-1, 0, 1]] * 2, [1.0, 1.0, 2.0, 2.0])
    assert second == ([[-1, -1, 0]] * 2, [1.0, 2.0])


def test_too_many_tokens_are_refused_before_any_is_sent_and_the_next_call_works(tmp_path):
    problem = MoEProblem(4, 128, 16, E, TOPK, "fp32")

    def one(rank):
        layer = RankedExperts.make(problem, Parallel(PLACES[:3], rank), CPU, comm=BETWEEN[0], backend="torch_loop")
        own = layer.prepare(*expert_weights(problem, CPU, 0))
        with pytest.raises(UserError, match=f"Rank {rank} has 5 tokens, but the buffers of '.*' hold 4"):
            layer(*inputs(problem, 5)[:1], own, *inputs(problem, 5)[1:], SILENT)
        x, weights, ids = inputs(problem, 4)
        return layer(x, own, weights, ids, SILENT).shape

    assert ranked.run(3, one, tmp_path) == [(4, 128)] * 3


def test_the_layer_on_two_ranks_gives_each_rank_what_one_gpu_gives(tmp_path, monkeypatch, interpreter):
    """GIVEN tokens, attention and shared experts on each rank WHEN they share experts THEN nothing else changes.

    Nor does it where shared experts are computed while rows travel.
    """
    tiny = Model(128, 16, 4, 2, 1, Attention("gqa", 2, 1, 16), Router("sigmoid", bias=True), "test", shared_experts=1)
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    given = ("tiny", Shape("decode", 1, context=1))
    options = {"format": "fp32", "backend": "torch_loop", "device": "cpu"}

    def one(rank):
        between = {"parallel": Parallel.contiguous(4, 2, rank), "comm": BETWEEN[0]} | options
        layers = [DecoderLayer(*given, overlap=overlap, **between) for overlap in (False, True)]
        return [layer.forward(*layer.inputs(rank), SILENT)[0].numpy() for layer in layers]

    alone = DecoderLayer(*given, **options)
    for rank, both in enumerate(ranked.run(2, one, tmp_path)):
        wanted = alone.forward(*alone.inputs(rank), SILENT)[0]
        for found in both:
            torch.testing.assert_close(torch.from_numpy(found), wanted)


@pytest.mark.parametrize("M", [40])
def test_our_kernels_leave_out_pairs_of_other_ranks(M, device):
    """GIVEN ids of which some are -1, one token with no expert here THEN fused_moe gives what plain torch does."""
    problem = MoEProblem(M, 64, 48, 8, 2, "fp32")
    x, w13, w2 = (torch.randn(*size, device=device) / 8 for size in ((M, 64), (8, 96, 64), (8, 64, 48)))
    weights, ids = (tensor.to(device) for tensor in synthetic("zipf:1", M, 8, 2))
    ids[::2, 0], ids[1] = -1, -1
    call = (x, w13, w2, weights, ids)
    wanted = torch_loop.experts(*call, problem=problem, mark=SILENT)
    found = fused_moe.experts(*call, problem=problem, mark=SILENT, share=0.5)
    assert not found[1].any()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "comm", "backend", "said"),
    [
        (MoEProblem(4, 128, 16, 8, 2, "fp32"), "local", "torch_loop", "placement is of 7 experts, but the layer has 8"),
        (MoEProblem(4, 128, 16, E, 2, "fp32"), BETWEEN[0], "torch_loop", "on 1 ranks, but 0 are running"),
        (MoEProblem(4, 128, 16, E, 2, "fp32"), "local", "grouped", "'grouped' cannot leave out experts"),
    ],
    ids=["placement", "no-ranks", "backend"],
)
def test_what_cannot_work_is_refused_in_a_sentence(problem, comm, backend, said):
    with pytest.raises(UserError, match=said):
        RankedExperts.make(problem, Parallel.contiguous(E), CPU, comm=comm, backend=backend)


def test_rows_by_expert_in_a_launch_of_its_own_are_not_what_ranks_need(monkeypatch):
    """GIVEN a backend that lays rows out by expert itself, and has no ``batched`` for those that came so."""
    monkeypatch.setattr(ranks, "load", lambda name: (object(), {"inputs": ["batched"]}))
    with pytest.raises(UserError, match="'laid_out' cannot leave out experts of other ranks; choose one that can"):
        ranks.load_sharing("laid_out")
