"""What plugins return for a listing: instructions with their units, and what the assembler states."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("units.csv")
TENSOR = ("mma.sync", "wgmma", "tcgen05", "mfma", "wmma")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: mnemonic with its modifiers.
        unit: the unit that it keeps busy, one of ``units.csv``.
        target: index of the instruction that it jumps to; None = it does not jump, or the target is not known.
        ends: whether the next instruction does not follow it: an exit, or an unconditional jump.
        load_bytes: bytes that a thread loads from global memory; None = it is not such a load.
        flop: floating-point operations of the tensor unit per warp (a multiply-add is two); None = the instruction does
            not tell, or there are none.
    """

    opcode: str
    unit: str
    target: int | None = None
    ends: bool = False
    load_bytes: int | None = None
    flop: int | None = None


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


@cache
def units(isa: str) -> Callable[[str], str]:
    """Return a function from an instruction of ``nvidia`` or ``amd`` (mnemonic, space, operands) to its unit."""
    with SOURCE.open(newline="", encoding="utf-8") as file:
        known = [(row["unit"], re.compile(row["pattern"])) for row in csv.DictReader(file) if row["isa"] == isa]
    return lambda text: next((unit for unit, pattern in known if pattern.match(text)), "other")
