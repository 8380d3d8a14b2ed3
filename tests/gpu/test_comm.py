import shutil

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import comm
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.routing import synthetic
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
        ("mega_moe", "bf16", ((0, 1), (2, 3)), "mega_moe does not take bf16 here, only: fp8_block"),
        ("mega_moe", "fp8_block", ((0, 2), (1, 3)), "mega_moe takes equal shares of the experts in order, not 4 on 2"),
        ("mega_moe", "fp8_block", ((0, 1), (2,)), "equal shares of the experts in order, not 3 on 2"),
        ("mega_moe", "fp8_block", ((0, 1), (2, 3)), "placed on 2 ranks, but 0 are running"),
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
