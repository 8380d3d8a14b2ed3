import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import comm
from moe_lab.gpu.comm._wire import Wire
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import fp8_block, quantise
from moe_lab.gpu.kernels.quantise import quantise as quantised
from moe_lab.gpu.ranks import RankedExperts
from moe_lab.gpu.routing import synthetic
from moe_lab.gpu.weights import DTYPES, expert_weights
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import STAGES, marker

SILENT = marker("none")


@pytest.mark.parametrize("name", plugins.names("comm"))
def test_a_comm_plugin_states_its_layout_ranks_and_stages(name):
    info = plugins.info("comm", name)
    assert info["layout"] in ("standard", "batched")
    assert info["ranks"] in ("one", "any")
    assert {stage for fused in info["stages"] for stage in fused.split("+")} <= set(STAGES)


def test_a_comm_plugin_is_one_file(tmp_path, monkeypatch):
    """GIVEN a folder with one more file WHEN plugins are listed and loaded THEN it is one of them."""
    folder, before = tmp_path / "gpu" / "comm", plugins.names("comm")
    shutil.copytree(plugins.PACKAGE / "gpu" / "comm", folder)
    (folder / "twice.py").write_text(
        'INFO = {"about": "x", "layout": "standard", "ranks": "one", "stages": []}\n'
        "from moe_lab.gpu.comm.local import dispatch\n"
        "def combine(rows, received, *, mark): return 2 * rows\n"
    )
    monkeypatch.setattr(plugins, "PACKAGE", tmp_path)
    monkeypatch.setattr(comm, "__path__", [str(folder)])
    assert plugins.names("comm") == [*before, "twice"]
    assert plugins.load("comm", "twice").combine(torch.ones(1), None, mark=SILENT).tolist() == [2.0]


@pytest.mark.parametrize("order", [tuple(range(8)), (3, 1, 0, 2, 7, 6, 5, 4)], ids=["in-order", "placed-otherwise"])
def test_local_gives_the_layer_of_one_rank_whatever_the_order_of_its_experts(order):
    """GIVEN experts in some order on one rank WHEN local numbers choose among them THEN the layer is the same."""
    problem = MoEProblem(13, 32, 16, 8, 2, "fp32")
    x, w13, w2 = torch.randn(13, 32), torch.randn(8, 32, 32), torch.randn(8, 32, 16)
    weights, ids = synthetic("uniform", 13, 8, 2)
    local, parallel = plugins.load("comm", "local"), Parallel((order,))
    received = local.dispatch(x, ids, weights, parallel=parallel, mark=SILENT)
    own = w13[list(order)], w2[list(order)]
    rows = torch_loop.experts(received.x, *own, received.topk_weights, received.topk_ids, problem=problem, mark=SILENT)
    wanted = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
    torch.testing.assert_close(local.combine(rows, received, mark=SILENT), wanted)


def test_local_drops_what_is_dropped_and_refuses_several_ranks():
    local, x = plugins.load("comm", "local"), torch.ones(1, 4)
    ids, weights = torch.tensor([[2, -1]], dtype=torch.int32), torch.ones(1, 2)
    received = local.dispatch(x, ids, weights, parallel=Parallel(((2, 1, 0),)), mark=SILENT)
    assert received.topk_ids.tolist() == [[0, -1]]
    with pytest.raises(UserError, match="for one rank, not 2"):
        local.dispatch(x, ids, weights, parallel=Parallel.contiguous(4, 2), mark=SILENT)


PEERS = [name for name in plugins.names("comm") if plugins.info("comm", name)["source"] != "moe_lab"]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_not_here_is_refused_in_a_sentence_that_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setattr(plugins, "_found", lambda module: module in ("torch", "triton"))
    sizes = comm.Sizes(4, 512, 2, "fp8_block", torch.device("cuda"))
    with pytest.raises(UserError, match=rf"comm plugin '{name}' is unavailable: needs .* \(pip install"):
        comm.Between(name, Parallel.contiguous(8, 2), sizes)


@pytest.mark.parametrize(
    ("name", "format", "placement", "said"),
    [
        ("mega_moe", "bf16", ((0, 1), (2, 3)), "mega_moe does not send bf16, only: fp8_block"),
        ("mega_moe", "fp8_block", ((0, 2), (1, 3)), "mega_moe takes equal shares of the experts in order, not 4 on 2"),
        ("mega_moe", "fp8_block", ((0, 1), (2,)), "equal shares of the experts in order, not 3 on 2"),
        ("mega_moe", "fp8_block", ((0, 1), (2, 3)), "placed on 2 ranks, but 0 are running"),
        ("deepep", "fp16", ((0, 1), (2, 3)), "deepep does not send fp16, only: bf16, fp8_block"),
        ("deepep", "bf16", ((0,), (1,), (2,)), "deepep is for 2, 4, 8 ranks of one host, not 3"),
        ("deepep", "bf16", ((0, 2), (1, 3)), "deepep takes equal shares of the experts in order"),
        ("deepep", "bf16", ((0, 1), (2, 3)), "placed on 2 ranks, but 0 are running"),
        ("deepep_low_latency", "fp16", ((0, 1), (2, 3)), "does not send fp16, only: bf16, fp8_block"),
        ("deepep_low_latency", "bf16", ((0, 2), (1, 3)), "deepep_low_latency takes equal shares of the experts"),
        ("deepep_low_latency", "bf16", ((0, 1), (2, 3)), "kernels for K of 2048, 2560, .*, 8192, not 512; use another"),
        ("nvshmem_all_to_all", "fp32", ((0, 1), (2, 3)), "does not send fp32, only: fp16, bf16, fp8_block"),
        ("nvshmem_all_to_all", "bf16", ((0, 1), (2, 3)), "placed on 2 ranks, but 0 are running"),
    ],
)
def test_a_peer_refuses_what_it_cannot_do_before_its_library_is_read(name, format, placement, said, monkeypatch):
    from moe_lab.gpu.experts import mega_moe

    monkeypatch.setattr(plugins, "_found", lambda module: True)
    monkeypatch.setattr(mega_moe, "capability", lambda: (9, 0))
    problem = MoEProblem(4, 512, 256, sum(map(len, placement)), 2, format)
    sizes = comm.Sizes(4, 512, 2, format, torch.device("cuda"), problem)
    with pytest.raises(UserError, match=said):
        comm.Between(name, Parallel(placement), sizes)


class Buffer:
    """DeepEP's on rank 0 of two, where rank 1 has no tokens: rows in any order, and NaN in those that did not come."""

    def get_dispatch_layout(self, ids, E):
        assert ids.dtype == torch.int64
        needed = (ids[:, None, :] * 2 // E == torch.arange(2)[:, None]).any(dim=2)
        return needed.sum(dim=0).int(), None, torch.bincount(ids[ids >= 0], minlength=E).int(), needed, "event"

    def dispatch(self, x, *, num_worst_tokens, is_token_in_rank, topk_idx, topk_weights, **counts):
        assert counts["num_tokens_per_rank"].tolist() == is_token_in_rank.sum(dim=0).tolist()
        tokens = is_token_in_rank[:, 0].nonzero().flatten().flip(0)
        here = topk_idx * 2 // len(counts["num_tokens_per_expert"]) == 0
        ids, blank = torch.where(here, topk_idx, -1), num_worst_tokens - len(tokens)

        def sent(of, fill):
            return torch.cat([of[tokens], of.new_full((blank, of.shape[1]), fill)])

        rows = sent(x, 255), sent(ids, -1), sent(topk_weights, float("nan"))
        return *rows, [], (tokens, len(topk_idx)), "event"

    def combine(self, rows, handle):
        y = rows.new_zeros((handle[1], rows.shape[1]))
        y[handle[0]] = rows[: len(handle[0])]
        return y, None, "event"


def assert_layer_of_one_process(way, room, problem, backend="torch_loop", most=7):
    """Assert the layer of rank 0 of two, whose 5 tokens need only its experts, by way of a room for most on each."""
    parallel = room.wire.parallel

    def dispatch(x, ids, weights, mark):
        received = way.dispatch(x, ids, weights, parallel=parallel, mark=mark, room=room)
        assert received.topk_ids.shape == (2 * most, 2), "as many as may come from both ranks"
        return received

    def combine(rows, received, mark):
        return way.combine(rows, received, mark=mark)

    between = SimpleNamespace(parallel=parallel, whole=False, dispatch=dispatch, combine=combine)
    w13, w2 = (quantise(w, problem.format) for w in expert_weights(problem, torch.device("cpu"), 0))
    x, (weights, ids) = torch.randn(5, 128).to(DTYPES[problem.dtype]), synthetic("uniform", 5, 4, 2)
    ids[3] = -1
    layer = RankedExperts(problem, between, backend)
    for tokens in (5, 5, 0):
        part = x[:tokens], weights[:tokens], ids[:tokens]
        y = layer(part[0], layer.prepare(w13, w2), *part[1:], SILENT)
        wanted = torch_loop.experts(part[0], w13, w2, *part[1:], problem=problem, mark=SILENT)
        torch.testing.assert_close(y, wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
def test_deepep_takes_rows_with_their_scales_and_leaves_out_those_that_did_not_come(format):
    way = plugins.load("comm", "deepep", without=["deep_ep"])
    sizes = comm.Sizes(7, 128, 2, format, torch.device("cpu"))
    room = way.Room(Wire(Parallel.contiguous(8, 2), sizes), Buffer())
    assert_layer_of_one_process(way, room, MoEProblem(5, 128, 16, 8, 2, format))


@pytest.mark.parametrize(
    ("ranks", "tokens", "problem", "said"),
    [
        (9, 4, MoEProblem(4, 2048, 16, 18, 2, "bf16"), "for up to 8 ranks of one host here, not 9"),
        (
            2,
            509,
            MoEProblem(4, 2048, 16, 18, 2, "bf16"),
            "room for 508 tokens of a rank and 11 experts of each, not 509",
        ),
        (2, 4, MoEProblem(4, 2048, 16, 18, 12, "bf16"), "508 tokens of a rank and 11 experts of each, not 4 and 12"),
        (2, 4, MoEProblem(4, 2048, 16, 18, 1, "bf16", apply_router_weight_on_input=True), "results by router weights"),
        (2, 4, MoEProblem(4, 2048, 16, 18, 2, "bf16"), "placed on 2 ranks, but 0 are running"),
    ],
)
def test_deepep_low_latency_refuses_what_its_kernels_cannot_do(ranks, tokens, problem, said):
    way = plugins.load("comm", "deepep_low_latency", without=["deep_ep"])
    sizes = comm.Sizes(tokens, problem.K, problem.topk, problem.format, torch.device("cuda"), problem)
    with pytest.raises(UserError, match=said):
        way.prepare(Parallel.contiguous(18, ranks), sizes)


class LowLatencyBuffer:
    """DeepEP's on rank 0 of two, where rank 1 has no tokens: rows by expert, and NaN in those that did not come."""

    def low_latency_dispatch(self, x, ids, most, E, *, use_fp8):
        assert (ids.dtype, len(x) <= most, most % 4) == (torch.int64, True, 0)
        rows = torch.full((E // 2, 2 * most, x.shape[1]), float("nan"), dtype=x.dtype)
        pairs = [(ids == expert).nonzero() for expert in range(E // 2)]
        for room, own in zip(rows, pairs, strict=True):
            room[: len(own)] = x[own[:, 0]]
        counts = torch.tensor([len(own) for own in pairs], dtype=torch.int32)
        if not use_fp8:
            return rows, counts, pairs, "event", "hook"
        numbers = fp8_block.quantise_activations(rows.flatten(0, 1).float())
        scales = numbers.scales.view(E // 2, 2 * most, -1).transpose(1, 2).contiguous().transpose(1, 2)
        return (numbers.values.view(rows.shape), scales), counts, pairs, "event", "hook"

    def low_latency_combine(self, rows, ids, weights, pairs):
        y = torch.zeros(len(ids), rows.shape[2])
        for room, own in zip(rows, pairs, strict=True):
            for row, (token, slot) in zip(room, own.tolist(), strict=False):
                y[token] += weights[token, slot] * row
        return y.to(rows.dtype), "event", "hook"


@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
def test_deepep_low_latency_delivers_rows_by_expert_and_sums_what_comes_back(format, interpreter):
    way = plugins.load("comm", "deepep_low_latency", without=["deep_ep"])
    sizes = comm.Sizes(7, 128, 2, format, torch.device("cpu"))
    room = way.Room(Wire(Parallel.contiguous(8, 2), sizes), LowLatencyBuffer())
    assert_layer_of_one_process(way, room, MoEProblem(5, 128, 16, 8, 2, format), "batched_loop", most=8)


def test_rows_by_expert_need_a_backend_that_takes_them():
    parallel, problem = Parallel.contiguous(8, 2), MoEProblem(5, 2048, 16, 8, 2, "bf16")
    with pytest.raises(UserError, match=r"rows by expert, which .* 'torch_loop' does not take; use --backend batched"):
        RankedExperts.make(problem, parallel, torch.device("cuda"), comm="deepep_low_latency", backend="torch_loop")


def test_nvshmem_sends_rows_in_order_of_their_ranks_and_finds_them_again(interpreter, monkeypatch):
    """GIVEN an all_to_all of rank 0 of two, where rank 1 sends nothing WHEN rows go both ways THEN sums are right."""
    way = plugins.load("comm", "nvshmem_all_to_all", without=plugins.info("comm", "nvshmem_all_to_all")["needs"][2:])

    def all_to_all_vdev(sent, out, splits, there, group):
        assert splits.tolist()[1:] == [0], "nothing for rank 1"
        count = int(splits[0])
        out.view(torch.uint8).fill_(255)
        out[:count] = sent[:count]
        there.copy_(torch.tensor([[count, 0], [0, count]]))

    monkeypatch.setattr(torch.ops, "symm_mem", SimpleNamespace(all_to_all_vdev=all_to_all_vdev))
    wire = Wire(Parallel.contiguous(8, 2), comm.Sizes(7, 128, 2, "fp16", torch.device("cpu")), way.LINE)
    assert wire.message % way.LINE == 0
    messages, results, lengths = torch.zeros(14, wire.message // 8).long(), torch.zeros(14, 128).half(), torch.zeros(2)
    memory = messages, messages.clone(), results, results.clone(), lengths.long(), *torch.zeros(2, 2, 2).long()
    assert_layer_of_one_process(way, way.Room(wire, "0", *memory), MoEProblem(5, 128, 16, 8, 2, "fp16"))


@pytest.fixture
def one_sided(monkeypatch):
    """GIVEN FlashInfer's calls on rank 0 of two, where rank 1 has no tokens, in plain torch."""
    sent = []

    def moe_a2a_dispatch(ids, payloads, workspace, described, most, rank, ranks, topk, experts):
        assert (workspace, described, rank, ranks, topk) == ("memory", "described", 0, 2, ids.shape[1])
        assert ids.dtype == torch.int32
        sent[:] = ((ids >= 0) & (ids * 2 // experts == 0)).any(dim=1).nonzero().flatten().tolist()
        arrived = [part.new_zeros((ranks, most, part.shape[1])) for part in payloads]
        for to, part in zip(arrived, payloads, strict=True):
            to[0, : len(sent)] = part[sent]
        return arrived, 64, None

    def moe_a2a_sanitize_expert_ids(ids, workspace, described, rank, invalid):
        ids[0, len(sent) :] = ids[1] = invalid

    def moe_a2a_combine(payload, M, workspace, described, most, rank, ranks, topk, begin):
        assert (payload.shape[:2], begin) == ((ranks, most), 64)
        y = payload.new_zeros((M, payload.shape[2]))
        y[sent] = payload[0, : len(sent)]
        return y

    calls = SimpleNamespace(**{name: call for name, call in locals().items() if name.startswith("moe_a2a")})
    names = "flashinfer", "flashinfer.comm", "flashinfer.comm.comm_backend", "flashinfer.comm.mnnvl"
    modules = {name: ModuleType(name) for name in names}
    vars(modules["flashinfer.comm"]).update(Mapping=None, trtllm_moe_alltoall=calls)
    vars(modules["flashinfer.comm.comm_backend"]).update(TorchDistBackend=None)
    vars(modules["flashinfer.comm.mnnvl"]).update(MnnvlConfig=None, MnnvlMemory=None)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield plugins.load("comm", "flashinfer_one_sided", without=["flashinfer"])
    del sys.modules["moe_lab.gpu.comm.flashinfer_one_sided"]


@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
def test_flashinfer_gets_rows_ids_and_weights_and_leaves_out_those_that_did_not_come(format, one_sided):
    wire = Wire(Parallel.contiguous(8, 2), comm.Sizes(7, 128, 2, format, torch.device("cpu")))
    room = one_sided.Room(wire, None, ("memory", "described"))
    assert_layer_of_one_process(one_sided, room, MoEProblem(5, 128, 16, 8, 2, format))


@pytest.mark.gpu
@pytest.mark.parametrize("M", [0, 1, 300])
def test_rows_that_travel_are_those_of_the_format_on_a_gpu(M):
    wire = Wire(Parallel.contiguous(8, 2), comm.Sizes(300, 640, 2, "fp8_block", torch.device("cuda")))
    x = torch.randn(M, 640, device="cuda", dtype=torch.bfloat16)
    sent, wanted = wire.x(wire.rows(x)), quantised(x)
    assert torch.equal(sent.values.float(), wanted.values.float())
    assert torch.equal(sent.scales, wanted.scales)
