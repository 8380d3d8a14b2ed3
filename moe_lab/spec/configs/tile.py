# SPDX-License-Identifier: Apache-2.0
"""A tile: six numbers, on AMD up to nine, and the values that kernels can take."""

from collections.abc import Mapping, Sequence
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import integer, one_line

FIELDS = ("block_m", "block_n", "block_k", "group_m", "num_warps", "num_stages")

# Options of Triton's compiler for AMD, and what it takes without them: 0 leaves the choice to it.
AMD_FIELDS, AMD_OWN = ("waves_per_eu", "matrix_instr_nonkdim", "kpack"), (0, 0, 1)

# The numbers of a tile, in the order of FIELDS; those of AMD_FIELDS follow if one of them differs from AMD_OWN.
Sizes = tuple[int, ...]

_BLOCK = tuple(2**i for i in range(4, 11))  # tl.dot takes at least 16; no SM has room for more than 1024
_WARPS = tuple(2**i for i in range(6))  # 32 warps are the 1024 threads that a block may have
_TAKEN: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(FIELDS[:3], _BLOCK),
    "group_m": range(1, 1025),
    "num_warps": _WARPS,
    "num_stages": range(1, 17),
    "waves_per_eu": range(11),  # a SIMD holds at most 10
    "matrix_instr_nonkdim": (0, 4, 16, 32),
    "kpack": (1, 2),
}
_SAID = {
    "group_m": "whole number from 1 to 1024",
    "num_warps": "power of two from 1 to 32",
    "num_stages": "whole number from 1 to 16",
    "waves_per_eu": "whole number from 0 to 10",
    "matrix_instr_nonkdim": "number of 0, 4, 16 and 32",
    "kpack": "number of 1 and 2",
}


def checked(tile: Sequence[Any]) -> Sizes:
    """Return six or nine numbers as a tile; ValueError if no kernel can take one of them."""
    names = FIELDS if len(tile) == len(FIELDS) else (*FIELDS, *AMD_FIELDS)
    for name, value in zip(names, tile, strict=True):
        if type(value) is not int or value not in _TAKEN[name]:
            said = _SAID.get(name, "power of two from 16 to 1024")
            given = one_line("x".join(map(str, tile)), 60)
            raise ValueError(f"{given} is not a tile: {name} is {one_line(str(value), 40)}, not a {said}")
    return tuple(tile[: len(FIELDS)] if tuple(tile[len(FIELDS) :]) == AMD_OWN else tile)


def parse(text: str) -> Sizes:
    """Return the tile for six or nine numbers joined by x, ``16x64x128x1x4x4``, or raise UserError."""
    try:
        return checked([integer(part) for part in text.split("x")])
    except ValueError as error:
        raise UserError(
            f"'{one_line(text, 60)}' is not a tile ({error}); write {'x'.join(FIELDS)}, such as 16x64x128x1x4x4, "
            f"and on AMD {'x'.join(('', *AMD_FIELDS))} behind them."
        ) from None


def text(tile: Sequence[int]) -> str:
    """Return a tile as text that ``parse`` reads."""
    return "x".join(map(str, tile))
