# SPDX-License-Identifier: Apache-2.0
"""SASS of NVIDIA GPUs, as ``cuobjdump -res-usage -sass`` prints it for a cubin with one kernel.

What ``nvdisasm -gi -c`` prints may follow: of it only the lines of the source are taken.
"""

import re
from typing import NamedTuple

from moe_lab.runs.assembly._listing import Instruction, Listing, Place, of_the_kernel, units
from moe_lab.spec.errors import UserError

INFO = {"about": "SASS of NVIDIA GPUs, by cuobjdump -res-usage -sass", "source": "CUDA binary utilities"}

USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
LINE = re.compile(r"^[ \t]*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*)", re.M)
ADDRESS = re.compile(r"(?:^|[\s,])0x([0-9a-f]+)\s*$")
AGAIN = "//--------------------- .text."  # where nvdisasm begins to list the code again
PLACE = re.compile(r'^\s*//## File "([^"\n]+)", line (\d+)|^[ \t]*/\*([0-9a-f]{4,})\*/', re.M)
RESERVED_BYTES = 1024
STEP_BYTES = 16  # per instruction, since Volta
WARPS_OF_A_WGMMA = 4  # warps that execute one together
# Of dense operands, a step of k has 32 bytes.
K_OF_TCGEN05 = {"UTCHMMA": 16, "UTCQMMA": 32, "UTCIMMA": 32}
M_OF_TCGEN05 = (64, 128)  # rows that one block's instruction can have
DESCRIPTOR = re.compile(r"idesc\[(UR\d+)\]")
WRITTEN = re.compile(r"(UR\d+)\b")
MMA = re.compile(r"\w+MMA\.(?:SP\.)?(?:(\d+)x(\d+)x(\d+)|(16|8)(8)(\d+))")


class Line(NamedTuple):
    """One instruction as listed."""

    address: int
    predicate: str
    opcode: str
    operands: str


def sniff(text: str) -> bool:
    """Return whether a text is a listing of SASS."""
    return USAGE.search(text) is not None


def read(text: str) -> Listing:
    """Return the kernel; raises UserError if the text holds no kernel, or more than one."""
    text, _, told = text.partition(AGAIN)
    found = USAGE.findall(text)
    if len(found) != 1:
        raise UserError(f"A listing of SASS has {len(found)} kernels instead of one; compile it again.")
    kernel, registers, stack, smem, local = found[0]
    code = _without_padding([Line(int(at, 16), *rest) for at, *rest in LINE.findall(text)])
    places = {line.address: index for index, line in enumerate(code)}
    facts = {
        "static_registers": int(registers),
        "stack_bytes": max(int(stack), int(local)),
        "smem_in_code_bytes": max(0, int(smem) - _reserved(text)),
        "code_bytes": len(code) * STEP_BYTES,
    }
    sources = _sources(told)
    shapes = _descriptors(code)
    instructions = tuple(_instruction(line, places, sources.get(line.address), shapes) for line in code)
    spilled = sum(one.unit == "local memory" for one in instructions)
    return Listing(kernel, instructions, facts | {"local_accesses": spilled})


def _sources(text: str) -> dict[int, Place | None]:
    """Return the line of the source of each address; inlined ones are listed from the inside out."""
    found: dict[int, Place | None] = {}
    frames: list[Place] = []
    place = None
    for file, line, address in PLACE.findall(text):
        if file:
            frames.append(Place(file, int(line)))
            continue
        place, frames = of_the_kernel(frames) if frames else place, []
        found[int(address, 16)] = place
    return found


def _reserved(text: str) -> int:
    """Return the shared memory that the driver reserves per block, which cubins include since Hopper."""
    made_for = re.search(r"code for sm_(\d+)", text)
    return RESERVED_BYTES if made_for and int(made_for[1]) >= 90 else 0


def _without_padding(lines: list[Line]) -> list[Line]:
    """Return the code without the jump to itself and the NOPs that pad its end."""
    while lines and lines[-1].opcode in ("NOP", "BRA") and _address(lines[-1].operands) in (None, lines[-1].address):
        lines = lines[:-1]
    return lines


def _descriptors(code: list[Line]) -> dict[int, int]:
    """Return address of a tcgen05 instruction -> its descriptor, where the code moves a constant there just before.

    The last write above it in the listing counts; a descriptor that is computed is left out.
    """
    held: dict[str, int | None] = {}
    found: dict[int, int] = {}
    for line in code:
        if (used := DESCRIPTOR.search(line.operands)) and (value := held.get(used[1])) is not None:
            found[line.address] = value
        if written := WRITTEN.match(line.operands):
            constant = ADDRESS.search(line.operands) if line.opcode == "UMOV" and not line.predicate else None
            held[written[1]] = int(constant[1], 16) if constant else None
    return found


def _instruction(line: Line, places: dict[int, int], place: Place | None, descriptors: dict[int, int]) -> Instruction:
    opcode, operands = line.opcode, line.operands.strip()
    unit = units("nvidia")(f"{opcode} {operands}")
    address = _address(operands) if opcode.startswith(("BRA", "JMP")) else None
    width = _width(opcode) if unit in ("global load", "async copy") else None
    target = None if address is None else places.get(address)
    always = opcode.split(".")[0] in ("EXIT", "RET") or (opcode == "BRA" and operands.startswith("0x"))
    ends, listed = always and not line.predicate, f"{line.predicate}{opcode} {operands}".strip()
    flop = _flop_of_tcgen05(opcode, descriptors.get(line.address)) if unit == "tcgen05" else _flop(opcode, unit)
    return Instruction(opcode, unit, target, ends, width, flop, listed, place)


def _address(operands: str) -> int | None:
    found = ADDRESS.search(operands)
    return int(found[1], 16) if found else None


def _width(opcode: str) -> int:
    """Return the bytes that a thread loads: 4 if no modifier says otherwise."""
    of = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((of[part] for part in opcode.split(".") if part in of), 4)


def _flop(opcode: str, unit: str) -> int | None:
    """Return 2 * m * n * k per warp."""
    shape = MMA.match(opcode)
    if shape is None:
        return None
    m, n, k = (int(size) for size in shape.groups() if size)
    return 2 * m * n * k // (WARPS_OF_A_WGMMA if unit == "wgmma" else 1)


def _flop_of_tcgen05(opcode: str, descriptor: int | None) -> int | None:
    """Return 2 * m * n * k per thread block; None for pairs of blocks, and where the descriptor is not known.

    A descriptor has n / 8 in bits 17 to 22 and m / 16 in bits 24 to 28 (PTX ISA, tcgen05.mma).
    """
    if descriptor is None or opcode not in K_OF_TCGEN05:
        return None
    m, n = (descriptor >> 24 & 0x1F) * 16, (descriptor >> 17 & 0x3F) * 8
    return 2 * m * n * K_OF_TCGEN05[opcode] if m in M_OF_TCGEN05 and n else None
