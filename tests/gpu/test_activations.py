"""Every activation, gated or not: the function, and the layer against the oracle with its bound."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import ACTIVATIONS, MoEProblem

SIZES = (5, 64, 48, 2, 2, "uniform")
# What each is at gate = 1 with up = 2, by hand: sigmoid(1) = 0.731059, Phi(1) = 0.841345.
AT_ONE = {
    "silu": 1.462117,
    "gelu": 1.682689,
    "gelu_tanh": 1.682384,
    "relu2": 2.0,
    "swigluoai": 2.537387,
    "silu_no_mul": 0.731059,
    "gelu_no_mul": 0.841345,
    "relu2_no_mul": 1.0,
}


def layer(activation, device, format="fp16", sizes=SIZES):
    return make((*sizes, activation), device, format)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_what_a_pencil_says(activation, device):
    gates = torch.tensor([[1.0, -20.0]], device=device)
    both = torch.cat([gates, gates.new_tensor([[2.0, 3.0]])], 1) if "_no_mul" not in activation else gates
    found = gated_activation(both, activation)
    assert found.tolist()[0] == [pytest.approx(AT_ONE[activation], abs=2e-6), pytest.approx(0, abs=1e-6)]


@pytest.mark.parametrize("name", ["fused_moe", "grouped"])
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_our_backends_do_every_activation(name, activation, device, poison):
    problem, inputs = layer(activation, device)
    oracle = Oracle(inputs, problem)
    errors = oracle.errors(run(name, problem, inputs))
    assert oracle.right(errors), (errors, oracle.bound)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_bound_of_an_activation_refuses_another(activation, device):
    problem, inputs = layer(activation, device)
    y = torch_loop.experts(*inputs, problem=problem, mark=ranges.marker("none"))
    for other in ACTIVATIONS:
        # The two gelus are as near as fp16 can tell.
        if ("_no_mul" in other) != ("_no_mul" in activation) or other[:4] == activation[:4]:
            continue
        oracle = Oracle(inputs, replace(problem, activation=other))
        assert not oracle.right(oracle.errors(y)), other


@pytest.mark.parametrize("name", ["fused_moe", "grouped"])
def test_quantised_hidden_rows_need_no_gate(name, device, poison):
    """GIVEN fp8 blocks, whose tiles could hold whole groups of gate and up WHEN there is none THEN it is right."""
    problem, inputs = layer("relu2_no_mul", device, "fp8_block", (5, 128, 128, 2, 2, "uniform"))
    oracle = Oracle(inputs, problem)
    assert oracle.right(oracle.errors(run(name, problem, inputs, tile=Tile(16, 128, 128, 1, 4, 2))))


def test_quantise_applies_activations_without_a_gate(device):
    x = torch.randn(3, 128, device=device).half()
    found = quantise(x, "relu2_no_mul", format="int8")
    # Half a step of the token's own scale, whose largest number is 127 steps, and what fp32 rounds.
    assert ((found.values * found.scales - x.float().relu() ** 2).abs() <= 0.5001 * found.scales).all()


def test_without_a_gate_w13_has_half_the_rows_and_work():
    gated, plain = (MoEProblem(4, 8, 16, 2, 1, "fp32", f"silu{end}") for end in ("", "_no_mul"))
    assert (gated.rows13, plain.rows13) == (32, 16)
    assert plain.useful_flops() == 4 * 4 * 8 * 16 == gated.useful_flops() * 2 // 3
    assert gated.minimum_bytes(2, "w13") - plain.minimum_bytes(2, "w13") == 4 * (2 * 16 * 8 + 4 * 16)
    with pytest.raises(UserError, match="Activation 'tanh' is unknown; choose one of: silu, gelu, "):
        MoEProblem(4, 8, 16, 2, 1, activation="tanh")
