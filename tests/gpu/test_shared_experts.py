"""Shared experts as further experts of every token: sizes, routing, and the sum of both parts."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make, run

from moe_lab.gpu import routing
from moe_lab.gpu.bench.bound import Inputs, exact
from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.gpu.shared_experts import SharedExperts
from moe_lab.gpu.weights import drawn
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem


def test_a_preset_takes_as_many_as_it_has_or_as_it_is_given():
    routed, own, two = (MoEProblem.preset("deepseek-v3", 4, "bf16", shared) for shared in (0, "model", 2))
    assert (own.E, own.topk, own.shared, own.model) == (257, 9, 1, "deepseek-v3+1")
    assert (two.E, two.topk, two.model) == (258, 10, "deepseek-v3+2")
    assert replace(own.routed, model="deepseek-v3") == routed
    # A pair more a token, and the weights of one expert more.
    assert own.useful_flops() * 8 == routed.useful_flops() * 9
    assert own.minimum_bytes(33) - routed.minimum_bytes(32) == 3 * 7168 * 2048 * 2
    with pytest.raises(UserError, match="2 shared experts leave no routed ones among topk=2"):
        MoEProblem(1, 64, 48, 4, 2, shared=2)


def test_their_sum_is_that_of_the_routed_part_and_a_dense_one(device, poison):
    """GIVEN 3 routed and 2 shared experts THEN the layer is that of the 3, plus act(gate) up of the 2 with weight 1."""
    problem, inputs = make((3, 32, 16, 5, 3, "uniform", "silu"), device, "fp16")
    problem = replace(problem, shared=2)
    weights, ids = drawn("zipf:1.0", problem, seed=3, device=torch.device(device))
    assert ids.dtype == torch.int32
    assert ids[:, 1:].tolist() == [[3, 4]] * 3
    assert weights[:, 1:].tolist() == [[1, 1]] * 3
    known = routing.synthetic("zipf:1.0", 3, 3, 1, seed=3, device=device)
    assert torch.equal(ids[:, :1], known.topk_ids)
    assert torch.equal(weights[:, :1], known.topk_weights)
    inputs = Inputs(inputs.x, inputs.w13, inputs.w2, weights.contiguous(), ids.contiguous())
    oracle = Oracle(inputs, problem)
    x, dense = inputs.x.double(), 0
    for w13, w2 in zip(inputs.w13[3:].double(), inputs.w2[3:].double(), strict=True):
        dense = dense + gated_activation_torch(x @ w13.T, "silu") @ w2.T
    part = Inputs(inputs.x, inputs.w13[:3], inputs.w2[:3], *known)
    torch.testing.assert_close(exact(inputs, problem), exact(part, problem.routed) + dense)
    assert oracle.right(oracle.errors(run("fused_moe", problem, inputs)))


@pytest.mark.parametrize("format", ["fp16", "fp8_block"])
def test_by_themselves_they_are_added_to_the_routed_part(format, device, poison):
    """GIVEN 2 shared among 4 experts WHEN they are computed apart THEN with the routed part they are the layer."""
    problem, inputs = make((3, 128, 128, 4, 3, "uniform", "silu"), device, format)
    problem = replace(problem, shared=2)
    weights, ids = drawn("uniform", problem, seed=3, device=torch.device(device))
    inputs = Inputs(*inputs[:3], weights.contiguous(), ids.contiguous())
    shared = SharedExperts.of(problem, inputs.w13, inputs.w2)
    part = Inputs(inputs.x, inputs.w13, inputs.w2, weights[:, :1].contiguous(), ids[:, :1].contiguous())
    routed = run("fused_moe", replace(problem, topk=1, shared=0), part)
    oracle = Oracle(inputs, problem)
    for y in (shared(inputs.x, routed), shared(inputs.x) + routed):
        assert oracle.right(oracle.errors(y))
    assert shared(inputs.x[:0]).shape == (0, 128)


def test_there_may_be_none_and_biases_are_refused(device):
    problem, inputs = make((3, 32, 16, 4, 2, "uniform", "silu"), device, "fp16", biases=True)
    assert SharedExperts.of(problem, inputs.w13, inputs.w2) is None
    with pytest.raises(UserError, match="have no biases here; leave --shared out"):
        SharedExperts.of(replace(problem, shared=1), inputs.w13, inputs.w2)
