"""The adapter of vLLM's CUTLASS kernels, around a library in plain torch that stands for theirs."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import assert_right

from moe_lab.gpu import routing
from moe_lab.gpu.bench.check import Inputs
from moe_lab.gpu.experts import cutlass_fp8
from moe_lab.gpu.formats import quantise
from moe_lab.spec import ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

SILENT = ranges.marker("none")


def sort(topk_ids, starts, sizes13, sizes2, token, place, E, n, k, blocks, gated):
    """Pairs by expert: first rows, sizes, the token of each row and the row of each pair."""
    counts = topk_ids.flatten().bincount(minlength=E)
    starts[:] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    order = topk_ids.flatten().argsort(stable=True)
    token[:], place[order] = order // topk_ids.shape[1], torch.arange(len(order), dtype=torch.int32)
    sizes13[:] = torch.tensor([[count, (1 + gated) * n, k] for count in counts.tolist()])
    sizes2[:] = torch.tensor([[count, k, n] for count in counts.tolist()])


def multiply(y, a, b, a_scales, b_scales, starts, sizes, a_strides, b_strides, y_strides, per_token, per_channel):
    assert starts.dtype == a_strides.dtype == torch.int64
    assert per_token == per_channel == (b_scales.shape[1] > 1)
    assert (a_scales.numel() > 1) == per_token
    for expert, (start, (rows, columns, depth)) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        assert (int(a_strides[expert]), int(y_strides[expert])) == (depth, columns)
        at = slice(start, start + rows)
        scale = a_scales[at] if per_token else a_scales
        y[at] = (a[at].float() * scale) @ (b[expert].float() * b_scales[expert][:, None]).T


@pytest.mark.parametrize("format", ["fp8_token", "fp8_tensor"])
@pytest.mark.parametrize("activation", ["silu", "relu2_no_mul"])
def test_cutlass_gets_rows_by_expert_with_their_scales(format, activation, interpreter, monkeypatch, poison):
    monkeypatch.setattr(cutlass_fp8, "capability", lambda: (9, 0))
    adapter = cutlass_fp8.CutlassFp8.__new__(cutlass_fp8.CutlassFp8)
    library = SimpleNamespace(get_cutlass_moe_mm_data=sort, cutlass_moe_mm=multiply)
    adapter.__dict__.update(_library=library, _strides={})
    problem = MoEProblem(5, 64, 32, 4, 2, format, activation)
    w = [quantise(torch.randn(4, a, b) * b**-0.5, format) for a, b in ((problem.rows13, 64), (64, 32))]
    weights, ids = routing.synthetic("uniform", 5, 4, 2, seed=1)
    given = torch.randn(5, 64).half(), *w, weights, ids
    y = adapter.experts(*given, problem=problem, mark=SILENT)
    assert assert_right(y, problem, Inputs(*given)).bound.rms_rel < 0.15, "a wrong scale is off by a quarter and more"
    monkeypatch.setattr(cutlass_fp8, "capability", lambda: (10, 0))
    with pytest.raises(UserError, match=r"compute capability 9\.0"):
        adapter.experts(*given, problem=problem, mark=SILENT)
