# SPDX-License-Identifier: Apache-2.0
"""How far each element of a correct layer may be from the exact one, derived from its arithmetic and not from samples.

Every rounding multiplies a value v by 1 + d, with |d| <= u, the unit roundoff. To first order the error of an element
is the sum of c_i d_i over all roundings on its way. Roundings are taken as independent with mean 0 (Higham and Mary,
A New Approach to Probabilistic Rounding Error Analysis, 2019), so that Azuma's inequality bounds it:

    P(|error| > LAMBDA * sqrt(sum of (c_i u_i)^2)) <= 2 exp(-LAMBDA^2 / 2), which is 2.5e-14 for LAMBDA = 8.

The square root is the *scale* of an element. It is computed step by step through the layer, where u is the roundoff of
the dtype and u32 = 2^-24:

1. Sums of n products a_i b_i, with q^2 = sum of (a_i b_i)^2 and sum s. Added one by one in a random order, the partial
   sums S_j have E[S_j^2] <= s^2 + q^2 (sampling without replacement). In fp32 each addition rounds:
   u32^2 n (s^2 + q^2). Tensor cores truncate instead, always in one direction: (2 u32 n)^2 (s^2 + q^2), used for fp16,
   bf16 and tf32. tf32 also keeps only 10 bits of each factor and may truncate the rest: 2 (2^-10)^2 (q^2 + 2 s^2), for
   the part that varies and the part that is common to all terms. A bias is one more of the terms.
2. gate and up are stored in the dtype between kernels: u^2 times the square.
3. The activation f(gate) up passes on the errors of gate and up by its derivatives. It adds 2 roundings of the dtype (5
   if clamped) and 8 u32 for approximate exp and division; the argument z of exp is rounded too, which changes the
   sigmoid by z (1 - sigmoid). Storing the result: another u^2.
4. w2 as in 1, plus the errors of the hidden features: sum of (w2_i e_i)^2.
5. The router weight, its product and the row of a pair are rounded: 3 u^2; the fp32 sum over experts, and the result:
   u^2.

If a token is multiplied by its router weight first, the product is rounded, and the errors of its features pass on as
in 4. So do the errors of activations that are quantised before a product, with the roundoff that their format states:
e4m3 has 2^-4 of each number, int8 1 / 254 of the largest in a row. Where a format says that weights are rounded when
they are widened to the dtype, that adds u^2. The RMS error over all elements is below the RMS of the scales, because
roundings spread evenly over [-u, u] have a mean square of u^2 / 3.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.experts.torch_loop import moe
from moe_lab.gpu.formats import AnyWeights, apart, dense
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT
from moe_lab.spec.problem import MoEProblem, has_gate
from moe_lab.spec.ranges import marker

LAMBDA = 8.0  # so that even among 1e9 elements no correct one fails by chance
U32, U_TF32 = 2.0**-24, 2.0**-10
APPROXIMATE = 8 * U32  # exp and division, which GPUs approximate


class Inputs(NamedTuple):
    """One input of every backend.

    Attributes:
        x: [M, K].
        w13: [E, 2N, K], gate rows then up rows; with biases [E, 2N].
        w2: [E, K, N]; with biases [E, K].
        topk_weights: [M, topk] fp32.
        topk_ids: [M, topk] int32.
    """

    x: Tensor
    w13: AnyWeights
    w2: AnyWeights
    topk_weights: Tensor
    topk_ids: Tensor


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a backend.

    Attributes:
        dtype: of its inputs, of what it stores and of its result.
        tf32: whether fp32 products are computed in tf32.
        activations: unit roundoff of activations that are quantised before a product; 0 = they are not.
        even_steps: whether that is relative to the largest of a row instead of each.
        weights_rounded: whether weights are rounded to the dtype before a product.
    """

    dtype: torch.dtype
    tf32: bool = False
    activations: float = 0.0
    even_steps: bool = False
    weights_rounded: bool = False

    @property
    def u(self) -> float:
        """The unit roundoff of the dtype: half the gap after 1."""
        return torch.finfo(self.dtype).eps / 2

    def factors(self, x: Tensor) -> Tensor:
        """Return the squared scales of what rounding both factors of a product does to one, x [rows, features]."""
        to = x.abs().amax(1, keepdim=True).expand_as(x) if self.even_steps else x
        return self.activations**2 * to.square() + self.u**2 * self.weights_rounded * x.square()

    def product(self, q2: Tensor, s: Tensor, n: int) -> Tensor:
        """Return the squared scale of sums s of n products, whose squares add up to q2; see 1 in the module."""
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
        problem: its activation and the place of the router weight matter.
        arithmetic: of the backend.
    """
    x, weights, u2 = inputs.x.double(), inputs.topk_weights.double(), arithmetic.u**2
    on_input = problem.apply_router_weight_on_input
    if on_input:
        x, weights = x * weights, torch.ones_like(weights)
    total, squared, y = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for expert in inputs.topk_ids.unique().tolist():
        tokens, slots = (inputs.topk_ids == expert).nonzero(as_tuple=True)
        # One expert at a time: in fp64 the weights of all of them are four times as large as in bf16.
        w13, w2 = (_of(w, expert) for w in (inputs.w13, inputs.w2))
        rows, squares = _expert(x[tokens], w13, w2, problem.activation, arithmetic, u2 if on_input else 0.0)
        weight = weights[tokens, slots, None]
        y.index_add_(0, tokens, weight * rows)
        squared.index_add_(0, tokens, (weight * rows).square())
        total.index_add_(0, tokens, weight.square() * (squares + 3 * u2 * rows.square()))
    added = min(U32, arithmetic.u) ** 2 * problem.topk * (squared + y.square())
    # Below the smallest normal number the spacing is fixed, so a relative error says nothing.
    tiny = torch.finfo(arithmetic.dtype).smallest_normal * arithmetic.u
    return (total + added + u2 * y.square()).sqrt() + tiny


def _of(w: AnyWeights, expert: int) -> tuple[Tensor, Tensor]:
    """Return the weights of an expert [out, in] and its biases [out], zeros if it has none, in fp64."""
    weights, bias = apart(w)
    numbers = dense(weights[expert], torch.float64)
    return numbers, numbers.new_zeros(len(numbers)) if bias is None else bias[expert].double()


def _expert(
    x: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    activation: str,
    arithmetic: Arithmetic,
    on_input: float,
) -> tuple[Tensor, Tensor]:
    """Return an expert's result for rows x [rows, K], also [rows, K], and the squared scales of its errors."""
    u2, (rows, K), (w13, b13), (w2, b2) = arithmetic.u**2, x.shape, first, second
    both = x @ w13.T + b13  # [rows, 2N]
    q2 = x.square() @ w13.square().T + b13.square()
    factors = arithmetic.factors(x) + on_input * x.square()
    errors = arithmetic.product(q2, both, K + 1) + u2 * both.square() + factors @ w13.square().T
    hidden, slopes, own = _activation(both, activation, arithmetic)
    e2 = (slopes.square() * errors).view(rows, -1, hidden.shape[1]).sum(1) + own + arithmetic.factors(hidden)
    y, w2_squared = hidden @ w2.T + b2, w2.square().T
    squares = arithmetic.product(hidden.square() @ w2_squared + b2.square(), y, hidden.shape[1] + 1)
    return y, squares + e2 @ w2_squared


def _activation(both: Tensor, activation: str, arithmetic: Arithmetic) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden features [rows, N], their derivatives by gate and up, and squared scales of own errors [rows, N].

    The derivatives are [rows, 2N], or [rows, N] without a gate. Own errors are those of the activation itself, see 3 in
    the module.
    """
    u2, clamped = arithmetic.u**2, activation == "swigluoai"
    gate, up = both.chunk(2, dim=-1) if has_gate(activation) else (both, None)
    if clamped and up is not None:  # derivatives as within the limits: clamping never makes an error larger
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
    f, steep, argument, absolute = _curve(gate, activation.removesuffix("_no_mul"))
    offset, roundings = (1.0, 5) if clamped else (0.0, 2)
    times = torch.ones_like(gate) if up is None else up + offset
    hidden = f * times
    rounded = max(arithmetic.u, 4 * U32) if clamped else 4 * U32
    relative = (roundings + 1) * u2 + APPROXIMATE**2 + (rounded * argument).square()
    own = hidden.square() * relative + (absolute * times).square()
    if up is None:
        return hidden, steep, own
    # up + 1 is rounded too: relative to the sum, not to the product.
    own = own + u2 * (offset * f).square() * (1 + up.square())
    return hidden, torch.cat([steep * times, f], dim=-1), own


def _curve(x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return act(x), its derivative, how far a relative error of exp's argument moves it, and an absolute error."""
    none = torch.zeros_like(x)
    if name == "relu2":
        positive = x.clamp(min=0)
        return positive.square(), 2 * positive, none, none
    if name == "gelu":  # 1 + erf cancels for negative x, so what erf rounds counts in full
        share = 0.5 * torch.erfc(-x / math.sqrt(2))
        bell = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
        return x * share, share + x * bell, none, APPROXIMATE * x
    inner, slope = ALPHA * x, torch.full_like(x, ALPHA)  # the argument of the sigmoid, and its derivative
    if name == "silu":
        inner, slope = x, torch.ones_like(x)
    elif name == "gelu_tanh":
        factor = 2 * math.sqrt(2 / math.pi)
        inner, slope = factor * (x + 0.044715 * x**3), factor * (1 + 3 * 0.044715 * x.square())
    sigmoid = torch.sigmoid(inner)
    argument = inner * (1 - sigmoid)
    return x * sigmoid, sigmoid * (1 + x * slope * (1 - sigmoid)), argument, none
