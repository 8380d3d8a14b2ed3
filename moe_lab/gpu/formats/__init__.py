# SPDX-License-Identifier: Apache-2.0
"""Formats of weights and activations, one file each; ``moe_lab.spec.formats`` has what follows from their data.

A plugin has ``INFO`` (the fields of ``Format``); one with scales also has ``quantise(w)`` and ``dequantise(w, dtype)``
and, if activations have scales too, ``quantise_activations(x)``. An experts backend gets the result, a ``Quantised``
instead of a tensor, as ``w13`` and ``w2``, or through its ``prepare``. Weights of models whose experts have biases are
``Biased``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import torch
from torch import Tensor

from moe_lab.spec import formats, plugins


@dataclass(frozen=True)
class Quantised:
    """Values with scales.

    Attributes:
        format: name of the format.
        values: [..., rows, columns] as the format stores them; of 4 bits [..., rows, columns / 2] uint8, where the low
            four bits of a byte are the number with the even index.
        scales: [..., row blocks, column blocks], as the format's data say which numbers share one.
        zeros: of the shape of ``scales``, uint8: the stored number that stands for 0; None = it is the same for all.
        matrix_scales: [..., 1, 1] fp32: one more factor of all numbers of a matrix; None = the format has none.
    """

    format: str
    values: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    matrix_scales: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the numbers that are meant: [..., rows, columns]."""
        packed = 2 if self.values.dtype == torch.uint8 else 1
        return torch.Size((*self.values.shape[:-1], packed * self.values.shape[-1]))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Quantised":
        """Return the same with every tensor changed, such as the rows of all in another order."""
        changed: dict[str, Any] = {key: change(tensor) for key, tensor in self._tensors().items()}
        return replace(self, **changed)

    def __getitem__(self, expert: int) -> "Quantised":
        """Return what belongs to one expert."""
        return self.each(lambda tensor: tensor[expert])

    @classmethod
    def stack(cls, experts: Sequence["Quantised"]) -> "Quantised":
        """Return the experts as one, with a first dimension for them."""
        all_of = [one._tensors() for one in experts]
        stacked: dict[str, Any] = {key: torch.stack([one[key] for one in all_of]) for key in all_of[0]}
        return replace(experts[0], **stacked)

    def _tensors(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in found.items() if isinstance(value, Tensor)}


Weights = Tensor | Quantised


@dataclass(frozen=True)
class Biased:
    """Weights, and what is added to their products.

    Attributes:
        weights: [E, rows, columns], plain or in a format.
        bias: [E, rows] in the dtype of the tokens.
    """

    weights: Weights
    bias: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the weights: [E, rows, columns]."""
        return self.weights.shape

    def each(self, change: Callable[[Tensor], Tensor]) -> "Biased":
        """Return the same with every tensor changed; the bias as [E, rows, 1], a further column of the weights."""
        w = self.weights
        return Biased(w.each(change) if isinstance(w, Quantised) else change(w), change(self.bias[..., None])[..., 0])


AnyWeights = Weights | Biased


def apart(w: AnyWeights) -> tuple[Weights, Tensor | None]:
    """Return weights without their bias, and the bias [E, rows], or None."""
    return (w.weights, w.bias) if isinstance(w, Biased) else (w, None)


@overload
def quantise(w: Tensor, format: str) -> Weights: ...


@overload
def quantise(w: Tensor | Biased, format: str) -> AnyWeights: ...


def quantise(w: Tensor | Biased, format: str) -> AnyWeights:
    """Return weights [E, rows, columns], given in the format's dtype, in the format; a bias keeps the dtype."""
    if isinstance(w, Biased):
        assert isinstance(w.weights, Tensor)
        return Biased(quantise(w.weights, format), w.bias)
    if not formats.get(format).weight_block:
        return w
    made: Weights = plugins.load("formats", format).quantise(w)
    return made


def dense(w: Weights, dtype: torch.dtype) -> Tensor:
    """Return the values that weights or activations stand for, computed and stored in ``dtype``."""
    if not isinstance(w, Quantised):
        return w.to(dtype)
    numbers: Tensor = plugins.load("formats", w.format).dequantise(w, dtype)
    return numbers


def rounding(format: str) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds activations [rows, features] as a format does, and keeps their dtype."""
    if not formats.get(format).activation_block:
        return lambda x: x
    plugin = plugins.load("formats", format)
    return lambda x: dense(plugin.quantise_activations(x), x.dtype)
