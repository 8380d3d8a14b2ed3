# SPDX-License-Identifier: Apache-2.0
"""Shared experts by themselves: every token passes through them, so they are dense products on the token's own rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lab.gpu.formats import AnyWeights, Biased, Weights
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.linear import linear, scaled_linear
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem


@dataclass(frozen=True)
class SharedExperts:
    """Shared experts with weight 1.

    Attributes:
        weights: w13 [rows13, K], gate rows then up rows, and w2 [K, N] of each. Several may be one of their joint N.
        activation: one of ``ACTIVATIONS`` of the problem.
    """

    weights: tuple[tuple[Weights, Weights], ...]
    activation: str

    @classmethod
    def of(cls, problem: MoEProblem, w13: AnyWeights, w2: AnyWeights) -> "SharedExperts | None":
        """Return those of a problem, the last ones of w13 [E, rows13, K] and w2 [E, K, N]; None if it has none.

        Raises:
            UserError: they have biases.
        """
        if not problem.shared:
            return None
        if isinstance(w13, Biased) or isinstance(w2, Biased):
            raise UserError("Shared experts have no biases here; leave --shared out for a model that has some.")
        own = range(problem.E - problem.shared, problem.E)
        return cls(tuple((w13[expert], w2[expert]) for expert in own), problem.activation)

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return what they make of tokens x [M, K], added to y [M, K] of the same dtype if it is given."""
        if not len(x):
            return x if y is None else y
        for w13, w2 in self.weights:
            gate_up = linear(x, w13)
            if isinstance(w2, Tensor):
                hidden = gated_activation(gate_up, self.activation)
                # cuBLAS adds y in its epilogue; a product with scales has no such form.
                y = linear(hidden, w2) if y is None else torch.addmm(y, hidden, w2.T)
            else:
                more = scaled_linear(self._quantised(gate_up, w2.format), w2, x.dtype)
                y = more if y is None else y + more
        assert y is not None  # there is at least one
        return y

    def _quantised(self, gate_up: Tensor, format: str) -> Weights:
        """Return the activation of gate_up [M, rows13], in the format if it is one of activations too."""
        if formats.get(format).activation_block:
            return quantise(gate_up, self.activation, format=format)
        return gated_activation(gate_up, self.activation)
