"""Formats of the experts' numbers, by name: from bits and scales follow bytes, keys, file names and tolerances.

The data of a format are the ``INFO`` of its plugin ``moe_lab/gpu/formats/<name>.py``, read without importing it.
"""

from collections.abc import Mapping
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
        name: of the plugin.
        dtype: of the tokens, of the result, and of what is stored between kernels and not quantised.
        weight_bits: of a weight.
        activation_bits: of an activation that is multiplied.
        weight_block: rows and columns of an expert's weights that share a scale, 0 = all of them; None = no scales.
        activation_block: rows and features of activations that share a scale, 0 = all of them; None = no scales.
        scale_bytes: of a scale.
        activation_roundoff: unit roundoff of quantised activations; 0 = they keep the dtype.
        product: what is multiplied, where that is not of the dtype: ``e4m3``.
        engine: what vLLM and SGLang write behind ``dtype=`` in the names of tuned files; empty = they leave it out.
    """

    name: str
    dtype: str
    weight_bits: int
    activation_bits: int
    weight_block: tuple[int, int] | None = None
    activation_block: tuple[int, int] | None = None
    scale_bytes: int = 0
    activation_roundoff: float = 0.0
    product: str = ""
    engine: str = ""

    @property
    def quantised(self) -> bool:
        """Whether weights or activations are not simply numbers of the dtype."""
        return bool(self.weight_block or self.activation_block)

    @property
    def multiplied(self) -> str:
        """What both factors of a product are made of: ``product``, else the dtype."""
        return self.product or self.dtype

    @property
    def element_bytes(self) -> int | None:
        """Bytes of an element of any matrix; None where the matrices differ."""
        return None if self.quantised else self.weight_bits // 8

    @property
    def block_shape(self) -> tuple[int, int] | None:
        """What vLLM and SGLang call so: the blocks of weights, None where a scale is of whole rows or matrices."""
        return self.weight_block if self.weight_block and all(self.weight_block) else None

    @property
    def per_channel(self) -> bool:
        """Whether every row of weights, an output channel, has one scale."""
        return self.weight_block == (1, 0)

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of one expert's weights [rows, columns] and of their scales."""
        return self._bytes(rows, columns, self.weight_bits, self.weight_block)

    def activation_bytes(self, rows: int, features: int) -> int:
        """Return the bytes of activations [rows, features] that a product reads, and of their scales."""
        return self._bytes(rows, features, self.activation_bits, self.activation_block)

    def _bytes(self, rows: int, columns: int, bits: int, block: tuple[int, int] | None) -> int:
        scales = 0
        if block and rows:
            scales = ceil(rows / (block[0] or rows)) * ceil(columns / (block[1] or columns))
        return ceil(rows * columns * bits / 8) + scales * self.scale_bytes


_FIELDS = [field.name for field in fields(Format) if field.name != "name"]


def get(name: str) -> Format:
    """Return the format called ``name``; raises UserError: there is no such format, or its file does not say enough."""
    if name not in (known := plugins.names("formats")):
        raise UserError(f"There is no format '{name}'; choose one of: {', '.join(known)}.")
    return _read(name)


@cache
def _read(name: str) -> Format:
    info = plugins.info("formats", name)
    try:
        return Format(name, **{key: info[key] for key in _FIELDS if key in info})
    except TypeError as error:
        raise UserError(f"INFO of the format '{name}' lacks something of: {', '.join(_FIELDS)} ({error}).") from None


def of_engine(kind: str, block: tuple[int, ...] | None, per_channel: bool = False) -> list[str]:
    """Return the formats that vLLM and SGLang name so in their tuned files: several where the name does not tell.

    Args:
        kind: behind ``dtype=``; empty = left out.
        block: behind ``block_shape=``; None = left out.
        per_channel: ``per_channel_quant=True`` stands there, which SGLang alone writes.
    """
    named = {name: get(name) for name in plugins.names("formats")}
    return [
        name
        for name, known in named.items()
        if (known.engine, known.block_shape) == (kind, block) and (known.per_channel or not per_channel)
    ]


def stated(sizes: Mapping[Any, Any]) -> str | None:
    """Return the format that a run states of its problem; older runs have the dtype alone, or beside it ``quant``."""
    found = next((sizes[key] for key in ("format", "quant", "dtype") if isinstance(sizes.get(key), str)), None)
    return found if found in plugins.names("formats") else None
