# SPDX-License-Identifier: Apache-2.0
"""Assembly of AMD GPUs as written by LLVM's AMDGPU target, with its comments and metadata."""

import re

from moe_lab.runs.assembly._listing import Instruction, Listing, Place, of_the_kernel, units
from moe_lab.spec.errors import UserError

INFO = {"about": "assembly of AMD GPUs, by LLVM's AMDGPU target", "source": "LLVM, User Guide for AMDGPU Backend"}

KERNEL = re.compile(r"^\s*\.amdhsa_kernel (\S+)", re.M)
LINE = re.compile(r"^(?:(\.\w+):|[ \t]+(\.loc|[a-z]\w+)(?:[ \t]+([^;\n]*))?(?:;[ \t]*(\S+:\d+:\d+.*))?)", re.M)
FILE = re.compile(r'^\s*\.file\s+\d+ "([^"\n]*)" "([^"\n]+)"', re.M)
FRAME = re.compile(r"([^\s:@\[]+):(\d+):\d+")
JUMP = re.compile(r"\.LBB\w+")
# Column -> where LLVM states it: in the metadata of the kernel, or in comments on the function.
STATED = {
    "static_vgprs": r"; NumVgprs: (\d+)",
    "static_agprs": r"; NumAgprs: (\d+)",
    "static_registers": r"; TotalNumVgprs: (\d+)",
    "static_sgprs": r"\.sgpr_count: +(\d+)",
    "vgpr_spills": r"\.vgpr_spill_count: +(\d+)",
    "sgpr_spills": r"\.sgpr_spill_count: +(\d+)",
    "stack_bytes": r"\.private_segment_fixed_size: +(\d+)",
    "smem_in_code_bytes": r"\.group_segment_fixed_size: +(\d+)",
    "code_bytes": r"; codeLenInByte = (\d+)",
}
WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "b128": 16, "b96": 12, "b64": 8, "b32": 4}
MFMA = re.compile(r"v_s?\w*?mfma\w*?_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?|v_smfmac\w*?_(\d+)x(\d+)x(\d+)")


def sniff(text: str) -> bool:
    """Return whether a text is assembly of AMD GPUs."""
    return "amdgcn-amd-amdhsa" in text


def read(text: str) -> Listing:
    """Return the kernel; raises UserError if the text holds no kernel, or more than one."""
    found = KERNEL.findall(text)
    if len(found) != 1:
        raise UserError(f"A listing of AMD assembly has {len(found)} kernels instead of one; compile it again.")
    body = text[text.index(f"\n{found[0]}:") :]
    body = body[: body.index(".amdhsa_kernel")]
    places: dict[str, int] = {}
    files = {name: f"{folder}/{name}" for folder, name in FILE.findall(text)}
    lines: list[tuple[str, str, Place | None]] = []
    place = None
    for label, opcode, operands, comment in LINE.findall(body):
        if label:
            places[label] = len(lines)
        elif opcode == ".loc":
            # Line 0 is code without a line of its own.
            frames = [Place(files.get(name, name), int(line)) for name, line in FRAME.findall(comment) if int(line)]
            place = of_the_kernel(frames) or place
        else:
            lines.append((opcode, operands.strip(), place))
    stated = {column: re.search(pattern, text) for column, pattern in STATED.items()}
    facts = {column: int(match[1]) for column, match in stated.items() if match}
    instructions = tuple(_instruction(*line, places) for line in lines)
    spilled = sum(one.unit == "local memory" for one in instructions)
    return Listing(found[0], instructions, facts | {"local_accesses": spilled})


def _instruction(opcode: str, operands: str, place: Place | None, places: dict[str, int]) -> Instruction:
    unit = units("amd")(f"{opcode} {operands}")
    label = JUMP.search(operands) if unit == "branch" else None
    width = _width(opcode) if unit in ("global load", "async copy") else None
    target = places.get(label[0]) if label else None
    ends = opcode in ("s_branch", "s_endpgm")
    return Instruction(opcode, unit, target, ends, width, _flop(opcode), f"{opcode} {operands}".strip(), place)


def _width(opcode: str) -> int:
    """Return the bytes that a work-item loads."""
    named = WIDTHS.get(opcode.rpartition("_")[2])
    return named or (1 if re.search(r"byte|[ui]8", opcode) else 2)


def _flop(opcode: str) -> int | None:
    """Return 2 * m * n * k per wavefront, times the number of blocks if the name states it."""
    found = MFMA.match(opcode)
    if found is None:
        return None
    m, n, k, blocks = (int(size) for size in [*filter(None, found.groups()), "1"][:4])
    return 2 * m * n * k * blocks
