# SPDX-License-Identifier: Apache-2.0
"""Compiled code as text: each ``<name>.py`` reads an assembler's listing into a ``Listing``, summarised here.

A plugin has ``sniff(text)`` and ``read(text)``. Which unit an instruction keeps busy is data in ``units.csv``: that of
the first pattern that matches the start of its mnemonic, a space and its operands.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from moe_lab.runs.assembly._listing import FOR_THE_BLOCK, TENSOR
from moe_lab.runs.assembly._listing import Instruction as Instruction
from moe_lab.runs.assembly._listing import Listing as Listing
from moe_lab.runs.assembly._listing import Place as Place
from moe_lab.runs.assembly._loops import inner_loop as inner_loop
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError

LANES = ("v_writelane", "v_readlane")
WIDE_BYTES = 16  # the widest load of a thread that every architecture has
MOST_LINES = 6  # of the source, of each kind, those with the most instructions


def read(text: str) -> Listing:
    """Return the kernel in a listing; raises UserError if no plugin knows its form, or it has no code."""
    for name in plugins.names("assembly"):
        plugin = plugins.load("assembly", name)
        if plugin.sniff(text):
            found: Listing = plugin.read(text)
            if not found.instructions:
                raise UserError(f"The listing of '{found.kernel}' has no instructions; compile it again.")
            return found
    raise UserError(f"A listing is not of a known assembler; known are: {', '.join(plugins.names('assembly'))}.")


def columns(listing: Listing, warps: int | None) -> dict[str, Any]:
    """Return columns of ``schema.of("static")``: what the assembler states, the mix, and the inner loop.

    Args:
        listing: the kernel.
        warps: warps of a thread block that do tensor work; None = not known.
    """
    body = [listing.instructions[at] for at in inner_loop(listing.instructions)]
    tensor = [one for one in listing.instructions if one.unit in TENSOR]
    return {
        **listing.facts,
        "static_instructions": len(listing.instructions),
        "tensor_unit": "+".join(dict.fromkeys(one.unit for one in tensor)) or None,
        "tensor_shape": "+".join(dict.fromkeys(one.opcode for one in tensor)) or None,
        "mix": _counted(listing.instructions),
        "loads": _loads(listing.instructions),
        **(_loop(body, warps) if body else {}),
        **_lines(listing.instructions, body or listing.instructions),
    }


def _loop(body: Sequence[Instruction], warps: int | None) -> dict[str, Any]:
    tensor = [one for one in body if one.unit in TENSOR]
    flop = [one.flop and (one.flop if one.unit == FOR_THE_BLOCK else warps and one.flop * warps) for one in tensor]
    known = bool(tensor) and None not in flop
    return {
        "loop_instructions": len(body),
        "loop_mix": _counted(body),
        "loop_loads": _loads(body),
        "loop_tensor_flop": sum(f or 0 for f in flop) if known else None,
        "loop_not_tensor_pct": 100 * (1 - len(tensor) / len(body)) if tensor else None,
    }


def _lines(every: Sequence[Instruction], hot: Sequence[Instruction]) -> dict[str, Any]:
    """Return which lines of the source what may be amiss comes from; ``hot`` is the inner loop, or all of the code."""
    # What spills of scalar registers become is listed as an exchange with lanes, like any other.
    spilled = [one for one in every if one.unit == "local memory" or one.opcode.startswith(LANES)]
    loads = [one for one in hot if one.load_bytes is not None]
    return {
        "tensor_lines": _by_line(one for one in hot if one.unit in TENSOR),
        "load_lines": _by_line(loads),
        "narrow_lines": _by_line(one for one in loads if (one.load_bytes or 0) < WIDE_BYTES),
        "conversion_lines": _by_line(one for one in hot if one.unit == "conversion"),
        "spill_lines": _by_line(spilled),
    }


def _by_line(instructions: Iterable[Instruction]) -> list[tuple[str, int]]:
    return Counter(str(one.place) for one in instructions if one.place).most_common(MOST_LINES)


def _counted(instructions: Sequence[Instruction]) -> list[tuple[str, int]]:
    return Counter(one.unit for one in instructions).most_common()


def _loads(instructions: Sequence[Instruction]) -> list[tuple[str, int]]:
    """Return (bytes per thread, count) of loads from global memory, the widest first; loads by TMA have no width."""
    found = Counter(one.load_bytes for one in instructions if one.load_bytes is not None)
    return [(str(width), found[width]) for width in sorted(found, reverse=True)]
