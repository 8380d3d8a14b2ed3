"""The batched layout: the kernel on rooms of its own, and both backends against the oracle."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.formats import Biased, Quantised, dense, fp8_block, quantise
from moe_lab.gpu.kernels.batched import batched_gemm
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError

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
