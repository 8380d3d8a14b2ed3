"""How far each element of a right layer may be from the exact one, by its arithmetic: so that no draw is lucky.

Every rounding multiplies a value v by 1 + d, with |d| <= u, the unit roundoff. To first order the error of an element
is the sum of c_i d_i over all roundings on its way. Roundings are taken as independent with mean 0 (Higham and Mary,
A New Approach to Probabilistic Rounding Error Analysis, 2019), so that Azuma's inequality bounds it:

    P(|error| > LAMBDA * sqrt(sum of (c_i u_i)^2)) <= 2 exp(-LAMBDA^2 / 2), which is 2.5e-14 for LAMBDA = 8.

The root is the *scale* of an element. It is followed through the layer; u is the roundoff of the dtype, u32 = 2^-24:

1. products of n terms a_i b_i with q^2 = sum of (a_i b_i)^2 and sum s. Added one by one in a random order, the partial
   sums S_j have E[S_j^2] <= s^2 + q^2 (sampling without replacement). fp32 adds round each: u32^2 n (s^2 + q^2). Tensor
   cores cut instead of rounding, all in one direction: (2 u32 n)^2 (s^2 + q^2), used for fp16, bf16 and tf32. tf32
   also keeps 10 bits of each factor and may cut the others: 2 (2^-10)^2 (q^2 + 2 s^2), spread and common part.
2. gate and up are stored in the dtype between kernels: u^2 times the square.
3. the activation f(gate) up: derivatives carry on the errors of gate and up; its own roundings are 2 (5 for the clamped
   one) of the dtype and 8 u32 for approximate exp and division; the argument z of exp is rounded too, which changes the
   sigmoid by z (1 - sigmoid). Stored: another u^2.
4. w2 as 1., with the errors of the hidden features: sum of (w2_i e_i)^2.
5. the router weight, its product and the row of a pair are rounded: 3 u^2; the sum over experts, in fp32, and the
   result: u^2.

A token that is multiplied by its router weight first is rounded: its features' errors pass as in 4. So do those of
activations that are quantised before a product, by the roundoff that their format states: e4m3 has 2^-4.
The RMS error over all elements is below the RMS of the scales: roundings that are even in [-u, u] have a third of u^2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.experts.torch_loop import moe
from moe_lab.gpu.formats import Weights, dense
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import marker

LAMBDA = 8.0
U32, U_TF32 = 2.0**-24, 2.0**-10
APPROXIMATE = 8 * U32


class Inputs(NamedTuple):
    """One input of every backend.

    Attributes:
        x: [M, K].
        w13: [E, 2N, K], gate rows then up rows.
        w2: [E, K, N].
        topk_weights: [M, topk] fp32.
        topk_ids: [M, topk] int32.
    """

    x: Tensor
    w13: Weights
    w2: Weights
    topk_weights: Tensor
    topk_ids: Tensor


@dataclass(frozen=True)
class Arithmetic:
    """What a backend computes with.

    Attributes:
        dtype: of its inputs, of what it stores and of its result.
        tf32: whether products of fp32 are made in tf32.
        activations: unit roundoff of activations that are quantised before a product; 0 = they are not.
    """

    dtype: torch.dtype
    tf32: bool = False
    activations: float = 0.0

    @property
    def u(self) -> float:
        """The unit roundoff of the dtype: half the gap after 1."""
        return torch.finfo(self.dtype).eps / 2

    def product(self, q2: Tensor, s: Tensor, n: int) -> Tensor:
        """Return the squared scale of sums s of n products, whose squares add up to q2."""
        cores = self.tf32 or self.dtype in (torch.float16, torch.bfloat16)
        added = (2 * U32 * n) ** 2 if cores else min(U32, self.u) ** 2 * n
        cut = 2 * U_TF32**2 * (q2 + 2 * s.square()) if self.tf32 else 0.0
        return added * (q2 + s.square()) + cut


def exact(inputs: Inputs, problem: MoEProblem) -> Tensor:
    """Return the layer [M, K] in fp64."""
    return moe(*inputs, problem=problem, mark=marker("none"), dtype=torch.float64)


def scale(inputs: Inputs, problem: MoEProblem, arithmetic: Arithmetic) -> Tensor:
    """Return the scale of each element's error, [M, K] fp64; see the module.

    Args:
        inputs: what every backend gets.
        problem: its activation and where the router weight goes.
        arithmetic: of the backend.
    """
    x, weights, u2 = inputs.x.double(), inputs.topk_weights.double(), arithmetic.u**2
    on_input = problem.apply_router_weight_on_input
    if on_input:
        x, weights = x * weights, torch.ones_like(weights)
    total, squared, y = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for expert in inputs.topk_ids.unique().tolist():
        tokens, slots = (inputs.topk_ids == expert).nonzero(as_tuple=True)
        w13, w2 = (dense(w[expert], torch.float64) for w in (inputs.w13, inputs.w2))
        rows, squares = _expert(x[tokens], w13, w2, problem.activation, arithmetic, u2 if on_input else 0.0)
        weight = weights[tokens, slots, None]
        y.index_add_(0, tokens, weight * rows)
        squared.index_add_(0, tokens, (weight * rows).square())
        total.index_add_(0, tokens, weight.square() * (squares + 3 * u2 * rows.square()))
    added = min(U32, arithmetic.u) ** 2 * problem.topk * (squared + y.square())
    tiny = torch.finfo(arithmetic.dtype).smallest_normal * arithmetic.u
    return (total + added + u2 * y.square()).sqrt() + tiny


def _expert(
    x: Tensor, w13: Tensor, w2: Tensor, activation: str, arithmetic: Arithmetic, on_input: float
) -> tuple[Tensor, Tensor]:
    """Return what an expert makes of rows x [rows, K], [rows, K], and the squared scales of the errors in it."""
    u2, (rows, K) = arithmetic.u**2, x.shape
    both = x @ w13.T  # [rows, 2N]
    q2 = x.square() @ w13.square().T
    a2 = arithmetic.activations**2
    errors = arithmetic.product(q2, both, K) + u2 * both.square() + (on_input + a2) * q2
    hidden, slopes, own = _activation(both, activation, arithmetic)
    e2 = (slopes.square() * errors).view(rows, 2, -1).sum(1) + own + a2 * hidden.square()
    y, w2_squared = hidden @ w2.T, w2.square().T
    squares = arithmetic.product(hidden.square() @ w2_squared, y, hidden.shape[1])
    return y, squares + e2 @ w2_squared


def _activation(both: Tensor, activation: str, arithmetic: Arithmetic) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden features [rows, N], their slopes by gate and up [rows, 2N], the squared scales of own errors."""
    gate, up = both.chunk(2, dim=-1)
    clamped = activation == "swigluoai"
    alpha, offset, roundings = (ALPHA, 1.0, 5) if clamped else (1.0, 0.0, 2)
    if clamped:  # slopes as inside the limits: clamping never makes an error larger
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
    sigmoid = torch.sigmoid(alpha * gate)
    f, steep = gate * sigmoid, sigmoid * (1 + alpha * gate * (1 - sigmoid))
    hidden = f * (up + offset)
    argument = alpha * gate * (1 - sigmoid)
    rounded = max(arithmetic.u, 4 * U32) if clamped else 4 * U32
    relative = (roundings + 1) * arithmetic.u**2 + APPROXIMATE**2 + (rounded * argument).square()
    # up + 1 is rounded too: by the sum, not by the product.
    own = hidden.square() * relative + (arithmetic.u * offset * f).square() * (1 + up.square())
    return hidden, torch.cat([steep * (up + offset), f], dim=-1), own
