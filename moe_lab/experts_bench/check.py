"""Is the result right? The oracle is fp32; the bound is twice the error of the plain torch path in the same dtype."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.experts import torch_loop
from moe_lab.ranges import marker


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
    w13: Tensor
    w2: Tensor
    topk_weights: Tensor
    topk_ids: Tensor


@dataclass(frozen=True)
class Errors:
    """Errors relative to the oracle: the largest over the oracle's largest value, and the RMS over its RMS."""

    max_rel: float
    rms_rel: float


class Oracle:
    """What the layer should return for one input, and how far from it a backend may be.

    Attributes:
        bound: the largest errors that count as right.
    """

    def __init__(self, inputs: Inputs, activation: str):
        """Compute the layer in fp32 (fp64 if the input is fp32), and in the input's own dtype.

        Args:
            inputs: what every backend gets.
            activation: of the layer.
        """
        dtype = inputs.x.dtype
        exact = torch.float64 if dtype == torch.float32 else torch.float32
        kept = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            self._y, plain = (
                torch_loop.moe(*inputs, activation=activation, mark=marker("none"), dtype=d) for d in (exact, dtype)
            )
        finally:
            torch.backends.cuda.matmul.allow_tf32 = kept
        self._max = float(self._y.abs().max()) if self._y.numel() else 0.0
        self._rms = float(self._y.square().mean().sqrt()) if self._y.numel() else 0.0
        allowed, rounding = self.errors(plain), torch.finfo(dtype).eps
        self.bound = Errors(2 * allowed.max_rel + rounding, 2 * (allowed.rms_rel + rounding))

    def errors(self, y: Tensor) -> Errors:
        """Return the errors of a result; infinite where the result is not finite or has another shape."""
        if y.shape != self._y.shape:
            return Errors(float("inf"), float("inf"))
        if not y.numel() or not self._max:
            return Errors(0.0, 0.0)
        difference = (y.to(self._y.dtype) - self._y).abs()
        if not bool(difference.isfinite().all()):
            return Errors(float("inf"), float("inf"))
        return Errors(float(difference.max()) / self._max, float(difference.square().mean().sqrt()) / self._rms)

    def right(self, errors: Errors) -> bool:
        """Return whether both errors are within the bound."""
        return errors.max_rel <= self.bound.max_rel and errors.rms_rel <= self.bound.rms_rel
