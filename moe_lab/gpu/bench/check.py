# SPDX-License-Identifier: Apache-2.0
"""Is the result right? The oracle is fp64, and the arithmetic determines how far an element may be from it.

The oracle multiplies by the weights that the backends get, so what a format loses does not count against them; that
loss is stated separately, against the weights before quantisation.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from moe_lab.gpu.bench.bound import LAMBDA, Arithmetic, Inputs, exact, scale
from moe_lab.spec import formats
from moe_lab.spec.problem import MoEProblem

__all__ = ["Errors", "Inputs", "Oracle"]


@dataclass(frozen=True)
class Errors:
    """Errors relative to the oracle.

    Attributes:
        max_rel: the largest error, divided by the oracle's largest value.
        rms_rel: the RMS error, divided by the oracle's RMS.
        share: the largest error of an element as a share of what is allowed for it; up to 1 is right.
        plain_rms_rel: the RMS error against the layer with unquantised weights, divided by the RMS of that.
    """

    max_rel: float
    rms_rel: float
    share: float = 0.0
    plain_rms_rel: float = 0.0


class Oracle:
    """What the layer should return for one input, and how far a backend may be from it."""

    def __init__(self, inputs: Inputs, problem: MoEProblem, plain: Inputs | None = None):
        """Compute the layer in fp64.

        Args:
            inputs: what every backend gets.
            problem: of the layer.
            plain: the same with unquantised weights; None = the weights are not quantised.
        """
        self._inputs, self._problem = inputs, problem
        self._y = exact(inputs, problem)
        self._plain = self._y if plain is None else exact(plain, problem)
        self._max = float(self._y.abs().max()) if self._y.numel() else 0.0
        self._rms = _rms(self._y)
        # It costs as much as the oracle: computed only if it is needed, and once for all backends of an arithmetic.
        self._scale = cache(lambda tf32: scale(inputs, problem, self._arithmetic(tf32)))

    @property
    def bound(self) -> Errors:
        """The largest errors that count as right, for a backend that multiplies in the dtype."""
        return self.bound_of()

    def bound_of(self, tf32: bool = False) -> Errors:
        """Return the largest errors that count as right; ``tf32``: for a backend that multiplies fp32 in tf32."""
        if not self._max:
            return Errors(0.0, 0.0, 1.0)
        allowed = self._scale(self._tf32(tf32))
        return Errors(float(LAMBDA * allowed.max()) / self._max, _rms(allowed) / self._rms, 1.0)

    def errors(self, y: Tensor, tf32: bool = False) -> Errors:
        """Return the errors of a result; infinite if it is not finite or has another shape or dtype."""
        infinite = Errors(*[float("inf")] * 4)
        if y.shape != self._y.shape or y.dtype != self._inputs.x.dtype:
            return infinite
        if not y.numel():
            return Errors(0.0, 0.0)
        difference = (y.double() - self._y).abs()
        if not bool(difference.isfinite().all()):
            return infinite
        share = float((difference / self._scale(self._tf32(tf32))).max()) / LAMBDA
        if not self._max:
            return Errors(0.0, 0.0, share)
        rms, cost = _rms(difference) / self._rms, _rms(y.double() - self._plain) / _rms(self._plain)
        return Errors(float(difference.max()) / self._max, rms, share, cost)

    def right(self, errors: Errors, tf32: bool = False) -> bool:
        """Return whether every element, and the RMS of all, is within the bound."""
        return errors.share <= 1 and errors.rms_rel <= self.bound_of(tf32).rms_rel

    def _arithmetic(self, tf32: bool) -> Arithmetic:
        known = formats.get(self._problem.format)
        rounded = known.activation_roundoff, known.even_steps, known.weights_rounded
        return Arithmetic(self._inputs.x.dtype, tf32, *rounded)

    def _tf32(self, tf32: bool) -> bool:
        return tf32 and self._inputs.x.dtype == torch.float32


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
