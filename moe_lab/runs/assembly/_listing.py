# SPDX-License-Identifier: Apache-2.0
"""What plugins return for a listing: instructions with their units, and what the assembler states."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("units.csv")
TENSOR = ("mma.sync", "wgmma", "tcgen05", "mfma", "wmma")
FOR_THE_BLOCK = "tcgen05"  # one thread issues it for all warps
# Folders of what kernels call of Triton itself, and of CUDA C++ that a launcher writes, which is in no file.
LIBRARIES = ("/triton/language/", "/generated/")


class Place(NamedTuple):
    """A line of the source: the file as its compiler was given it, and the number of the line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: mnemonic with its modifiers.
        unit: the unit that it keeps busy, one of ``units.csv``.
        target: index of the instruction that it jumps to; None = it does not jump, or the target is not known.
        ends: whether the next instruction does not follow it: an exit, or an unconditional jump.
        load_bytes: bytes that a thread loads from global memory; None = it is not such a load.
        flop: floating-point operations of the tensor unit (a multiply-add is two) per warp, of ``FOR_THE_BLOCK`` per
            thread block; None = the code does not tell, or there are none.
        text: the instruction as it is listed.
        place: the line of the source that it comes from; None = the listing does not tell.
    """

    opcode: str
    unit: str
    target: int | None = None
    ends: bool = False
    load_bytes: int | None = None
    flop: int | None = None
    text: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class Listing:
    """One kernel as its assembler lists it.

    Attributes:
        kernel: its name.
        instructions: the instructions in order of address, without the padding at the end.
        facts: columns of ``schema.of("static")`` that the assembler states: registers, stack, spills, code bytes.
    """

    kernel: str
    instructions: tuple[Instruction, ...]
    facts: dict[str, int]


def of_the_kernel(frames: Sequence[Place]) -> Place | None:
    """Return the innermost of inlined places, the innermost first, that is not in one of ``LIBRARIES``."""
    own = (place for place in frames if not any(folder in place.file for folder in LIBRARIES))
    return next(own, frames[0] if frames else None)


@cache
def units(isa: str) -> Callable[[str], str]:
    """Return a function from an instruction of ``nvidia`` or ``amd`` (mnemonic, space, operands) to its unit."""
    with SOURCE.open(newline="", encoding="utf-8") as file:
        known = [(row["unit"], re.compile(row["pattern"])) for row in csv.DictReader(file) if row["isa"] == isa]
    return lambda text: next((unit for unit, pattern in known if pattern.match(text)), "other")
