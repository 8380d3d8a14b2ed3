"""Formats of weights and activations, one file each; ``moe_lab.spec.formats`` has what follows from their data.

A plugin has ``INFO`` (the fields of ``Format``); one with scales also has ``quantise(w)`` and ``dequantise(w, dtype)``
and, if activations have scales too, ``quantise_activations(x)``. An experts backend gets the result, a ``Quantised``
instead of a tensor, as ``w13`` and ``w2``, or through its ``prepare``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_lab.spec import formats, plugins


@dataclass(frozen=True)
class Quantised:
    """Values with scales.

    Attributes:
        format: name of the format.
        values: [..., rows, columns] as the format stores them.
        scales: [..., row blocks, column blocks], as the format's data say which numbers share one.
    """

    format: str
    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the values."""
        return self.values.shape

    def __getitem__(self, expert: int) -> "Quantised":
        """Return the values and scales of one expert."""
        return replace(self, values=self.values[expert], scales=self.scales[expert])


Weights = Tensor | Quantised


def quantise(w: Tensor, format: str) -> Weights:
    """Return weights [E, rows, columns], given in the format's dtype, in the format; unchanged if it has no scales."""
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
