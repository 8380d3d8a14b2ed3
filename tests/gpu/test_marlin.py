"""Marlin's layout of weights, and its adapter around a library that stands for theirs."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu.experts import _marlin_layout as layout
from moe_lab.gpu.experts import marlin, marlin_batched, torch_loop
from moe_lab.gpu.formats import Biased, dense, quantise
from moe_lab.gpu.formats._four_bits import unpack
from moe_lab.spec import ranges
from moe_lab.spec.problem import MoEProblem


def codes(words, bits):
    """The numbers in [..., n] int32, from the lowest bits on."""
    return torch.stack([words >> at & (1 << bits) - 1 for at in range(0, 32, bits)], -1).flatten(-2)


def test_a_lane_holds_the_numbers_that_the_tensor_cores_take_from_it():
    w = quantise(torch.randn(1, 64, 64), "int4_w4a16_g32")
    plain = unpack(w.values[0])  # [columns, depth]
    first = codes(layout.packed(w, 32).values[0, 0, :1], 4).tolist()  # of lane 0 in the first 16 columns
    assert first == [
        int(plain[column, row]) for row, column in ((0, 0), (8, 0), (0, 8), (8, 8), (1, 0), (9, 0), (1, 8), (9, 8))
    ]
    w = quantise(torch.randn(1, 64, 64), "int8_w8a16")
    second = codes(layout.packed(w, 0).values[0, 0, 2:4], 8).tolist()  # lane 0 in the next 16 columns
    where = ((0, 16), (8, 16), (1, 16), (9, 16), (0, 24), (8, 24), (1, 24), (9, 24))
    assert second == [int(w.values[0, column, row]) + 128 for row, column in where]


def test_scales_and_zero_points_lie_in_the_order_of_the_lanes_columns():
    w = quantise(torch.randn(2, 64, 128) * torch.arange(1, 65)[:, None], "int4_w4a16_g32_zeros")
    packed = layout.packed(w, 32)
    assert packed.scales.shape == (2, 4, 64)
    assert torch.equal(packed.scales[1, 3, :9], w.scales[1, [0, 8, 16, 24, 32, 40, 48, 56, 1], 3])
    assert codes(packed.zeros[1, 3, :1], 4).tolist() == w.zeros[1, [0, 16, 32, 48, 8, 24, 40, 56], 3].tolist()
    w = quantise(torch.randn(2, 64, 128) * torch.arange(1, 65)[:, None], "mxfp4")
    scales = layout.packed(w, 32).scales.view(torch.uint8)
    assert scales[0, 2, :4].tolist() == w.scales[0, [0, 16, 8, 24], 2].tolist()


@pytest.mark.parametrize("format", ["int4_w4a16", "int8_w8a16", "mxfp4", "nvfp4"])
def test_padding_adds_rows_of_zeros_to_each_of_gate_and_up(format):
    w = quantise(torch.randn(2, 2 * 48, 160), format)
    group = {"int4_w4a16": 128, "int8_w8a16": 0, "mxfp4": 32, "nvfp4": 16}[format]
    grown = dense(layout.padded(w, 2, 64, 256, group), torch.float32).view(2, 2, 64, 256)
    assert torch.equal(grown[:, :, :48, :160], dense(w, torch.float32).view(2, 2, 48, 160))
    assert grown[:, :, 48:].abs().max() == 0


def unpacked(w):
    """The values [E, columns, depth] that int4 of groups of 32 in Marlin's layout stands for."""
    flat = torch.empty(w.values.shape[0], w.depth // 16, w.columns // 64, layout.TILE)
    flat[..., layout._order(4, "cpu")] = codes(w.values, 4).view(flat.shape).float() - 8
    tiles = flat.unflatten(-1, (4, 16, 16)).flatten(2, 3).transpose(2, 3).reshape(-1, w.depth, w.columns)
    scales = torch.empty(w.scales.shape)
    scales.unflatten(-1, (-1, 64))[..., layout.BY_GROUP] = w.scales.float().unflatten(-1, (-1, 64))
    return (tiles * scales.repeat_interleave(32, 1)).mT


def gemm(a, c, values, bias, scales, a_scales, matrix_scales, zeros, locks, order, experts, padded, weights, *more):
    """The product of the library, in plain torch, for weights that ``unpacked`` can read."""
    tile, topk, weighted, type_id, m, n, k, *how = more
    assert (m, k) == a.shape
    assert how == [False, True, False, -1, -1, -1]
    assert type_id == 1125899907892224  # uint4b8
    straight = torch.empty(bias.shape)
    straight.unflatten(-1, (-1, 32))[..., layout.BY_ROW] = bias.float().unflatten(-1, (-1, 32))
    w = unpacked(layout.Packed(values, scales, zeros, matrix_scales, None, n, k))
    for row in range(int(padded)):
        if (pair := int(order[row])) < len(c):
            factor = weights.flatten()[pair] if weighted else 1
            expert = experts[row // tile]
            c[pair] = (w[expert] @ a[pair // topk].float() + straight[expert]) * factor
    return c


def batched_align(room, block_m, counts, order, experts, padded):
    """The sort of the library: rows e * room + i of each expert, padded to whole tiles with a row that is none."""
    order.fill_(len(counts) * room)
    experts.fill_(-1)
    tiles = [(e, start) for e, count in enumerate(counts.tolist()) for start in range(0, count, block_m)]
    for tile, (expert, start) in enumerate(tiles):
        rows = torch.arange(start, min(start + block_m, int(counts[expert])))
        order[tile * block_m : tile * block_m + len(rows)] = expert * room + rows
        experts[tile] = expert
    padded.fill_(len(tiles) * block_m)


@pytest.mark.parametrize("kind", [marlin.Marlin, marlin_batched.MarlinBatched], ids=["standard", "batched"])
def test_marlin_gets_padded_weights_and_what_its_tiles_need(kind, interpreter, monkeypatch, poison):
    adapter = kind.__new__(kind)
    library = SimpleNamespace(moe_wna16_marlin_gemm=gemm, batched_moe_align_block_size=batched_align)
    adapter.__dict__.update(_library=library, _locks={torch.device("cpu"): torch.zeros(4)})
    problem = MoEProblem(5, 96, 32, 4, 2, "int4_w4a16_g32", biases=True)
    w = [
        Biased(quantise(torch.randn(4, a, b) * b**-0.5, problem.format), torch.randn(4, a))
        for a, b in ((64, 96), (96, 32))
    ]
    ids = torch.tensor([[0, 3], [1, 3], [3, 2], [0, 1], [3, 1]], dtype=torch.int32)
    given = torch.randn(5, 96).half(), torch.rand(5, 2), ids
    y = adapter.experts(given[0], *adapter.prepare(*w), *given[1:], problem=problem, mark=ranges.marker("none"))
    expected = torch_loop.experts(given[0], *w, *given[1:], problem=problem, mark=ranges.marker("none"))
    assert y.shape == (5, 96)
    assert (y - expected).abs().max() < 0.01 * expected.abs().max()
    blocks = [adapter.block_m(MoEProblem(M, 96, 32, 4, 2, "mxfp4")) for M in (1, 15, 30, 80, 100)]
    assert blocks == [8, 16, 32, 48, 64] if kind is marlin.Marlin else [8, 32, 48, 64, 64]


@pytest.mark.parametrize(("biases", "weighted"), [(False, [False, True]), (True, [False, False])])
def test_router_weights_stay_out_of_a_product_whose_matrix_scale_would_multiply_the_bias(
    biases, weighted, interpreter, monkeypatch
):
    seen = []

    def recording(a, c, *given):
        seen.append(given[13])
        return c.fill_(1.0)

    adapter = marlin.Marlin.__new__(marlin.Marlin)
    adapter.__dict__.update(
        _library=SimpleNamespace(moe_wna16_marlin_gemm=recording), _locks={torch.device("cpu"): torch.zeros(4)}
    )
    problem = MoEProblem(3, 128, 64, 4, 2, "nvfp4", biases=biases)
    w = [quantise(torch.randn(4, a, b), "nvfp4") for a, b in ((128, 128), (128, 64))]
    w = [Biased(one, torch.zeros(one.shape[:2])) if biases else one for one in w]
    weights, ids = torch.full((3, 2), 0.25), torch.tensor([[0, 1], [2, 3], [1, 2]], dtype=torch.int32)
    x = torch.randn(3, 128).half()
    y = adapter.experts(x, *adapter.prepare(*w), weights, ids, problem=problem, mark=ranges.marker("none"))
    assert seen == weighted
    assert y.unique().tolist() == ([0.5] if biases else [2.0])
