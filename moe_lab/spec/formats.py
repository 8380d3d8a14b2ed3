# SPDX-License-Identifier: Apache-2.0
"""Number formats of the experts, by name: bytes, keys, file names and tolerances follow from their bits and scales.

The data of a format is the ``INFO`` of its plugin ``moe_lab/gpu/formats/<name>.py``, read without importing it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import ceil
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError


@dataclass(frozen=True)
class Format:
    """What a format's ``INFO`` says.

    Attributes:
        name: name of the plugin.
        dtype: of the tokens, of the result, and of unquantised values that are stored between kernels.
        weight_bits: bits per weight.
        activation_bits: bits per activation, as it is multiplied.
        weight_block: rows and columns of an expert's weights that share a scale, 0 = all of them; None = no scales.
        activation_block: rows and features of activations that share a scale, 0 = all of them; None = no scales.
        scale_bytes: bytes per scale, with its zero point if it has one.
        activation_scale_bytes: bytes per scale of activations; 0 = as many as those of weights.
        matrix_scale_bytes: bytes of one more scale for each matrix of an expert.
        activation_roundoff: unit roundoff of quantised activations; 0 = they keep the dtype.
        even_steps: whether that is relative to the largest that share a scale, as of integers, and not to each.
        weights_rounded: whether a weight times its scale has more digits than the dtype, so that widening rounds it.
        product: what is multiplied, if not values of the dtype: ``e4m3`` or ``int8``.
        family: the format that backends name for it, if not its own: they take all that differ in groups alone.
        engine: what vLLM and SGLang write after ``dtype=`` in the names of tuned files; empty = they leave it out.
    """

    name: str
    dtype: str
    weight_bits: int
    activation_bits: int
    weight_block: tuple[int, int] | None = None
    activation_block: tuple[int, int] | None = None
    scale_bytes: int = 0
    activation_scale_bytes: int = 0
    matrix_scale_bytes: int = 0
    activation_roundoff: float = 0.0
    even_steps: bool = False
    weights_rounded: bool = False
    product: str = ""
    family: str = ""
    engine: str = ""

    @property
    def quantised(self) -> bool:
        """Whether weights or activations have scales, instead of being plain values of the dtype."""
        return bool(self.weight_block or self.activation_block)

    def among(self, named: Sequence[str]) -> bool:
        """Return whether a backend that names these formats takes this one."""
        return (self.family or self.name) in named

    @property
    def multiplied(self) -> str:
        """The type of both factors of a product: ``product``, else the dtype."""
        return self.product or self.dtype

    @property
    def element_bytes(self) -> int | None:
        """Bytes per element of every matrix; None if the matrices differ."""
        return None if self.quantised else self.weight_bits // 8

    @property
    def block_shape(self) -> tuple[int, int] | None:
        """``block_shape`` of vLLM and SGLang: the block of weights, None if scales are for rows or matrices."""
        return self.weight_block if self.weight_block and min(self.weight_block) > 1 else None

    @property
    def per_channel(self) -> bool:
        """Whether each row of weights, which is an output channel, has a scale."""
        return self.weight_block == (1, 0)

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of one expert's weights [rows, columns] with their scales."""
        own = self._bytes(rows, columns, self.weight_bits, self.weight_block, self.scale_bytes)
        return own + self.matrix_scale_bytes

    def activation_bytes(self, rows: int, features: int) -> int:
        """Return the bytes of activations [rows, features] that a product reads, with their scales."""
        scale_bytes = self.activation_scale_bytes or self.scale_bytes
        return self._bytes(rows, features, self.activation_bits, self.activation_block, scale_bytes)

    @staticmethod
    def _bytes(rows: int, columns: int, bits: int, block: tuple[int, int] | None, scale_bytes: int) -> int:
        scales = 0
        if block and rows:  # a partial block at the edge has a scale of its own
            scales = ceil(rows / (block[0] or rows)) * ceil(columns / (block[1] or columns))
        return ceil(rows * columns * bits / 8) + scales * scale_bytes


_FIELDS = [field.name for field in fields(Format) if field.name != "name"]


@cache  # every access to a problem's dtype asks for it
def get(name: str) -> Format:
    """Return the format called ``name``; UserError if there is none, or its INFO is incomplete."""
    if name not in (known := plugins.names("formats")):
        raise UserError(f"There is no format '{name}'; choose one of: {', '.join(known)}.")
    info = plugins.info("formats", name)
    try:
        return Format(name, **{key: info[key] for key in _FIELDS if key in info})
    except TypeError as error:
        raise UserError(f"INFO of the format '{name}' lacks one of: {', '.join(_FIELDS)} ({error}).") from None


def of_engine(kind: str, block: tuple[int, ...] | None, per_channel: bool = False) -> list[str]:
    """Return the formats that a tuned file of vLLM or SGLang may be for: several if its name leaves it open.

    Args:
        kind: what follows ``dtype=``; empty = left out.
        block: what follows ``block_shape=``; None = left out.
        per_channel: whether ``per_channel_quant=True`` follows, which only SGLang writes.
    """
    named = {name: get(name) for name in plugins.names("formats")}
    return [
        name
        for name, known in named.items()
        if (known.engine, known.block_shape) == (kind, block) and (known.per_channel or not per_channel)
    ]


def adds_biases(info: Mapping[str, Any], name: str) -> bool:
    """Return whether a backend with that ``INFO`` adds biases to products of a format's weights."""
    return bool(info.get("biases")) and not get(name).among(info.get("unbiased", []))


def stated(sizes: Mapping[Any, Any]) -> str | None:
    """Return the format that a run states for its problem, None if it is unknown."""
    # Runs from before there were formats state the dtype alone, or `quant` beside it.
    found = next((sizes[key] for key in ("format", "quant", "dtype") if isinstance(sizes.get(key), str)), None)
    return found if found in plugins.names("formats") else None
