"""The batched layout: the kernel on rooms of its own, and both backends against the oracle."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import SILENT, make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.comm import Received
from moe_lab.gpu.comm._batched import by_expert
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import Biased, Quantised, dense, fp8_block, quantise
from moe_lab.gpu.kernels.batched import batched_gemm
from moe_lab.gpu.kernels.padded_rows import listed
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

BACKENDS = ["batched", "batched_loop"]


@pytest.mark.parametrize("format", ["fp16", "fp8_block"])
def test_the_kernel_multiplies_the_counted_rows_of_each_expert_and_leaves_the_rest(format, device, poison):
    """GIVEN counts 0, 1 and all of a room of 96 WHEN tiles have 16 rows THEN a program takes two of the full expert."""
    E, room, gemm_k, gemm_n = 3, 96, 160, 72
    shapes = (E * room, gemm_k), (E, gemm_n, gemm_k), (E, gemm_n)
    x, w, bias = (torch.randn(*shape).half().to(device) for shape in shapes)
    counts = torch.tensor([0, 1, 96], dtype=torch.int32, device=device)
    weights, numbers = Biased(quantise(w, format), bias), x
    if format == "fp8_block":  # scales of a room's rows are adjacent
        numbers = fp8_block.quantise_activations(x)
        by_room = numbers.scales.view(E, room, -1).transpose(1, 2).contiguous()
        x = Quantised(format, numbers.values, by_room.transpose(1, 2))
    y = batched_gemm(x, weights, counts, tile=Tile(16, 64, 128, 1, 4, 2), dtype=torch.float16)
    for expert, count in enumerate(counts.tolist()):
        own = slice(expert * room, expert * room + count)
        factors = dense(numbers, torch.float32)[own], dense(weights.weights, torch.float32)[expert]
        wanted = factors[0] @ factors[1].T + bias[expert].float()
        torch.testing.assert_close(y[own].float(), wanted, rtol=2e-3, atol=2e-2)
        assert y[own.stop : (expert + 1) * room].isnan().all()


@pytest.mark.parametrize("format", ["fp16", "fp8_block"])
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", [(5, 160, 72, 2, 2, "uniform", "silu"), (3, 64, 32, 4, 1, "uniform", "gelu_no_mul")])
def test_batched_backends_match_the_oracle(case, name, format, device, poison):
    problem, inputs = make(case, device, format, biases=True)
    problem = replace(problem, apply_router_weight_on_input=problem.topk == 1)
    oracle = Oracle(inputs, problem)
    errors = oracle.errors(run(name, problem, inputs))
    assert oracle.right(errors), (errors, oracle.bound)


@pytest.mark.parametrize("format", ["fp32", "fp8_block"])
def test_received_rows_are_laid_out_by_expert_as_they_came(format, device, poison):
    """GIVEN tokens with pairs on other ranks, in rows that lie apart WHEN laid out THEN each pair has its row, once."""
    ids = torch.tensor([[2, -1], [-1, -1], [0, 2]], dtype=torch.int32, device=device)
    x = torch.randn(3, 256, device=device)
    if format == "fp8_block":  # as on the way: numbers, scales, and more behind them
        numbers, message = fp8_block.quantise_activations(x), torch.zeros(3, 320, dtype=torch.uint8, device=device)
        message[:, :256], message[:, 256:264] = numbers.values.view(torch.uint8), numbers.scales.view(torch.uint8)
        values, scales = message[:, :256].view(torch.float8_e4m3fn), message[:, 256:264].view(torch.float32)
        x = Quantised(format, values, scales)
    got = by_expert(Received(x, ids, torch.ones(3, 2)), 3, MoEProblem(3, 256, 16, 5, 2, format), SILENT)
    assert got.counts.tolist() == [1, 0, 2]
    place = got.place.view(3, 2).tolist()
    assert place == [[6, -1], [-1, -1], [0, 7]]
    rows = got.x
    if format == "fp8_block":
        rows = Quantised(format, rows.values.view(3, 3, 256), rows.scales)
    rows = dense(rows, torch.float32).view(9, 256)[[6, 0, 7]]
    assert torch.equal(rows, dense(x, torch.float32)[[0, 2, 2]])


@pytest.mark.parametrize("counts", [[2, 0, 5], [0, 0, 0], [40, 40, 40]])
def test_rows_that_hold_something_are_listed_in_the_order_of_their_experts(counts, device, poison):
    got = listed(torch.tensor(counts, dtype=torch.int32, device=device), 40, 120).tolist()
    rows = [40 * expert + row for expert, count in enumerate(counts) for row in range(count)]
    assert got == rows + [-1] * (120 - len(rows))


@pytest.mark.parametrize("format", ["fp16", "fp8_block"])
@pytest.mark.parametrize("name", BACKENDS)
def test_batched_backends_leave_weights_and_sums_to_a_way_that_keeps_them(name, format, device, poison):
    """GIVEN rows without weights WHEN computed THEN each is in its place, what a token with weight 1 would get."""
    problem, inputs = make((5, 128, 32, 4, 1, "uniform", "silu"), device, format)
    received = by_expert(Received(inputs.x, inputs.topk_ids, torch.ones_like(inputs.topk_weights)), 4, problem, SILENT)
    how = {"problem": problem, "mark": SILENT, "dtype": torch.float16}
    call, own = plugins.load("experts", name).batched, (inputs.w13, inputs.w2)
    wanted, place = call(received, *own, **how), received.place
    received = replace(received, topk_weights=None, place=listed(received.counts, 5, 5))
    torch.testing.assert_close(call(received, *own, **how)[place], wanted)


@pytest.mark.parametrize("name", BACKENDS)
def test_batched_backends_leave_out_pairs_of_other_ranks(name, device, poison):
    """GIVEN 2 of 4 experts on this rank, a token with none of them THEN each has the sum of those that are here."""
    problem, inputs = make((5, 64, 32, 4, 2, "uniform", "silu"), device, "fp16")
    inputs.topk_ids[1] = torch.tensor([2, 3])
    ids = torch.where(inputs.topk_ids < 2, inputs.topk_ids, -1)
    received = by_expert(Received(inputs.x, ids, inputs.topk_weights), 2, problem, SILENT)
    own, how = (inputs.w13[:2], inputs.w2[:2]), {"problem": problem, "mark": SILENT}
    y = plugins.load("experts", name).batched(received, *own, dtype=torch.float16, **how)
    wanted = torch_loop.experts(inputs.x, *own, inputs.topk_weights, ids, **how)
    assert not y[1].any()
    torch.testing.assert_close(y, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["bf16", "fp8_block"])
@pytest.mark.parametrize("M", [1, 64, 700])
def test_batched_is_right_at_the_sizes_of_a_model_and_in_a_graph(M, format, device, poison):
    problem, inputs = make((M, 2048, 768, 128, 8, "zipf:1.0", "silu"), device, format)
    run("batched", problem, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run("batched", problem, inputs)
    graph.replay()
    oracle = Oracle(inputs, problem)
    assert oracle.right(oracle.errors(y))


def test_batched_backends_state_their_input_and_refuse_other_formats(device):
    problem, inputs = make((3, 64, 32, 2, 2, "uniform", "silu"), device, "int8")
    for name in BACKENDS:
        info = plugins.info("experts", name)
        assert info["inputs"] == ["batched"]
        with pytest.raises(UserError, match=f"{name} does not take int8 here"):
            refuse(name, info, problem, torch.device(device))
    with pytest.raises(UserError, match="takes plain numbers or fp8_block"):
        run("batched", problem, inputs)
