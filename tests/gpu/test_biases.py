"""Biases of w13 and w2, as gpt-oss has them: added before the activation, and before the router weight."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import Biased
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

BACKENDS = ["fused_moe", "grouped"]
SIZES = (2, 64, 128, 2, 2, "uniform", "swigluoai")  # one block of fp8, so that grouped ends w13 with its activation


def test_biases_are_what_a_pencil_says():
    """GIVEN x = 2, gate 3 x + 1, up x - 1, then 5 h + 7 WHEN the weight is a half THEN relu2: (49 * 1 * 5 + 7) / 2."""
    problem = MoEProblem(1, 1, 1, 1, 1, "fp32", "relu2", biases=True)
    w13 = Biased(torch.tensor([[[3.0], [1.0]]]), torch.tensor([[1.0, -1.0]]))
    w2 = Biased(torch.tensor([[[5.0]]]), torch.tensor([[7.0]]))
    given = torch.tensor([[2.0]]), w13, w2, torch.tensor([[0.5]]), torch.zeros(1, 1, dtype=torch.int32)
    y = torch_loop.experts(*given, problem=problem, mark=ranges.marker("none"))
    assert y.item() == 126
    on_input = replace(problem, apply_router_weight_on_input=True)  # x = 1: gate 4, up 0
    assert torch_loop.experts(*given, problem=on_input, mark=ranges.marker("none")).item() == 7


# Scales in the sum, behind it and in the weights; ``test_cells`` has all of them on a GPU.
@pytest.mark.parametrize(
    ("name", "format"), [("fused_moe", "int8"), ("fused_moe", "mxfp4"), ("grouped", "fp8_block"), ("grouped", "fp16")]
)
def test_our_backends_add_biases_in_every_kind_of_format(name, format, device, poison):
    problem, inputs = make(SIZES, device, format, biases=True)
    inputs = inputs._replace(w2=Biased(inputs.w2.weights, 4 * inputs.w2.bias))  # beside what e4m3 rounds away
    oracle = Oracle(inputs, problem)
    errors = oracle.errors(y := run(name, problem, inputs))
    assert oracle.right(errors), (errors, oracle.bound)
    for key in ("w13", "w2"):  # one that is forgotten is seen
        without = Oracle(inputs._replace(**{key: getattr(inputs, key).weights}), problem)
        assert not without.right(without.errors(y)), key


@pytest.mark.parametrize("name", BACKENDS)
def test_a_router_weight_on_the_input_leaves_the_bias_alone(name, device, poison):
    problem, inputs = make((3, 32, 16, 2, 1, "uniform", "silu_no_mul"), device, "fp16", biases=True)
    weights = torch.linspace(0.1, 0.9, 3, device=device)[:, None].contiguous()
    problem, inputs = replace(problem, apply_router_weight_on_input=True), inputs._replace(topk_weights=weights)
    oracle = Oracle(inputs, problem)
    assert oracle.right(oracle.errors(run(name, problem, inputs)))


def test_backends_that_add_no_biases_say_so_before_weights_are_made(device):
    problem = replace(MoEProblem(1, 64, 64, 4, 2), biases=True)
    for name in plugins.names("experts"):
        info = plugins.info("experts", name)
        able = info | {"formats": ["bf16"], "cpu_formats": ["bf16"]}
        if info.get("biases"):
            refuse(name, able, problem, torch.device(device))
            continue
        with pytest.raises(UserError, match=f"{name} adds no biases, which the experts have"):
            refuse(name, able, problem, torch.device(device))


def test_biases_count_as_bytes_of_the_experts_hit():
    assert MoEProblem.preset("gpt-oss-20b", 1).biases
    plain = MoEProblem(1, 64, 48, 8, 2)
    biased = replace(plain, biases=True)
    for part, columns in (("full", 2 * 48 + 64), ("w13", 2 * 48), ("w2", 64)):
        assert biased.minimum_bytes(3, part) - plain.minimum_bytes(3, part) == 3 * columns * 2
