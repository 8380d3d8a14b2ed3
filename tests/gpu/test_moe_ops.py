"""The adapter of moe-ops around its operators in plain torch; 0.1.0 itself gave the same in Triton's interpreter."""

import importlib
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make

from moe_lab.gpu.bench.check import Oracle
from moe_lab.spec import ranges
from moe_lab.spec.errors import UserError


def permute(x, ids, E):
    """Rows by expert, the row of pair (slot, token) at slot * tokens + token, and [E + 1] bounds."""
    assert ids.dtype == torch.int32
    order = ids.flatten().sort(stable=True).indices
    place = torch.empty(len(order), dtype=torch.int32)
    place[order % ids.shape[1] * len(x) + order // ids.shape[1]] = torch.arange(len(order), dtype=torch.int32)
    counts = torch.bincount(ids.flatten(), minlength=E)
    return x[order // ids.shape[1]], place, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def grouped_gemm(rows, w, bounds):
    parts = [rows[a:b].float() @ w[e].float().T for e, (a, b) in enumerate(pairwise(bounds))]
    return torch.cat(parts).to(rows.dtype)


def unpermute(rows, place, weights, tokens, topk):
    assert weights.shape == (tokens, topk)
    return (rows.float()[place.long()].view(topk, tokens, -1) * weights.T[..., None]).sum(0).to(rows.dtype)


@pytest.fixture
def moe_ops(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("moe_ops")
    vars(module).update(permute=permute, grouped_gemm=grouped_gemm, unpermute=unpermute)
    monkeypatch.setitem(sys.modules, "moe_ops", module)
    yield importlib.import_module("moe_lab.gpu.experts.moe_ops")
    del sys.modules["moe_lab.gpu.experts.moe_ops"]


@pytest.mark.parametrize(("M", "topk"), [(0, 2), (7, 2), (7, 1)], ids=["none", "two-slots", "weight-on-input"])
def test_moe_ops_gets_rows_by_expert_and_puts_them_back(M, topk, moe_ops, interpreter, poison):
    problem, inputs = make((M, 64, 32, 4, topk, "uniform", "silu"), "cpu", "fp16")
    problem = replace(problem, apply_router_weight_on_input=topk == 1)
    y = moe_ops.experts(*inputs, problem=problem, mark=ranges.marker("none"))
    assert y.shape == (M, 64)
    if M:
        oracle = Oracle(inputs, problem)
        assert oracle.right(errors := oracle.errors(y)), (errors, oracle.bound)
    with pytest.raises(UserError, match="counts a power of two of experts, not 6"):
        moe_ops.experts(*inputs, problem=replace(problem, E=6), mark=ranges.marker("none"))
