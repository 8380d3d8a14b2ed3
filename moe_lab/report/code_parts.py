# SPDX-License-Identifier: Apache-2.0
"""The parts of a page on compiled code: colours, lines of the source with their instructions, instructions by part."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from moe_lab.runs.assembly import Instruction, Place
from moe_lab.spec.guard.entry import read_text

# What a colour stands for -> units of ``runs/assembly/units.csv``.
GROUPS = {
    "tensor": ("mma.sync", "wgmma", "tcgen05", "mfma", "wmma"),
    "memory": ("TMA", "async copy", "global load", "global store", "global atomic", "local memory", "scalar load"),
    "shared": ("shared memory", "tensor memory", "exchange"),
    "special": ("special function", "conversion"),
    "float": ("float",),
    "integer": ("other",),
    "control": ("wait", "branch"),
}
MEANING = {
    "tensor": "tensor unit",
    "memory": "global memory",
    "shared": "shared memory and exchange",
    "special": "special functions and conversions",
    "float": "floating point",
    "integer": "integers, addresses, moves",
    "control": "waits and jumps",
}
AROUND = 2  # lines of the source that are shown before and after those with code
GROUP_OF = {unit: group for group, units in GROUPS.items() for unit in units}


def units(code: Sequence[Instruction], loop: Sequence[int]) -> list[dict[str, Any]]:
    """Return the colours with their instructions in the inner loop and in all of the code."""
    every = Counter(GROUP_OF[one.unit] for one in code)
    within = Counter(GROUP_OF[code[at].unit] for at in loop)
    return [
        {"group": group, "meaning": MEANING[group], "loop": within[group], "all": every[group]}
        for group in GROUPS
        if every[group]
    ]


@dataclass(frozen=True)
class Source:
    """The source of a kernel, as far as its code names it.

    Attributes:
        keys: line with code -> what links it to its instructions on the page.
        texts: file -> its lines; none if it is not there to be read.
    """

    keys: Mapping[Place, str]
    texts: Mapping[str, list[str]]

    def line(self, place: Place | None) -> str:
        """Return the text of a line, empty if it is not known."""
        lines = self.texts.get(place.file, []) if place else []
        return lines[place.line - 1] if place and place.line <= len(lines) else ""


def source(code: Sequence[Instruction]) -> Source:
    """Return the lines that the code comes from, read from the files that its listing names."""
    keys = {place: f"p{i}" for i, place in enumerate(dict.fromkeys(one.place for one in code if one.place))}
    return Source(keys, {file: _lines(file) for file in dict.fromkeys(place.file for place in keys)})


def _lines(file: str) -> list[str]:
    try:
        return read_text(Path(file)).splitlines()
    except ValueError:
        return []


def files(code: Sequence[Instruction], loop: Sequence[int], known: Source) -> list[dict[str, Any]]:
    """Return the files of the source, that with the most code first, with the lines around those that have code."""
    counts: dict[Place, Counter[str]] = {place: Counter() for place in known.keys}
    for one in code:
        if one.place:
            counts[one.place][GROUP_OF[one.unit]] += 1
    hot = {code[at].place for at in loop}
    most = max((of.total() for of in counts.values()), default=1)
    found = []
    for file, _ in Counter(one.place.file for one in code if one.place).most_common():
        numbers = _shown(place.line for place in counts if place.file == file)
        lines = [
            {"number": place.line, "text": known.line(place), "key": known.keys.get(place), "hot": place in hot}
            | _bars(counts.get(place, Counter()), most)
            for place in (Place(file, number) for number in numbers)
        ]
        found.append({"name": Path(file).name, "lines": lines})
    return found


def _shown(lines: Iterable[int]) -> list[int]:
    """Return the numbers of lines with code and of those around them."""
    return sorted({n for line in lines for n in range(max(1, line - AROUND), line + AROUND + 1)})


def _bars(counts: Counter[str], most: int) -> dict[str, Any]:
    """Return the instructions of a line, and a bar of each colour as a share of ``most`` in per cent."""
    bars = [{"group": group, "width": 100 * counts[group] / most} for group in GROUPS if counts[group]]
    return {"count": counts.total(), "bars": bars}


def parts(code: Sequence[Instruction], loop: Sequence[int], known: Source) -> list[dict[str, Any]]:
    """Return the instructions of the inner loop first, then what comes before, between and after them."""
    return [
        {"title": title, "count": len(at), "groups": _groups(code, at, known)} for title, at in _split(len(code), loop)
    ]


def _split(count: int, loop: Sequence[int]) -> list[tuple[str, list[int]]]:
    if not loop:
        return [("All of the code; it has no loop", list(range(count)))]
    within, first, last = set(loop), min(loop), max(loop)
    rest = {
        "Before the loop": list(range(first)),
        "Between parts of the loop": [at for at in range(first, last) if at not in within],
        "After the loop": list(range(last + 1, count)),
    }
    return [("Inner loop", list(loop)), *((title, at) for title, at in rest.items() if at)]


def _groups(code: Sequence[Instruction], at: Sequence[int], known: Source) -> list[dict[str, Any]]:
    """Return the instructions, those in a row from the same line together."""
    return [
        {
            "key": known.keys[place] if place else "",
            "place": str(place or "no line of the source"),
            "text": known.line(place).strip(),
            "code": [_instruction(index, code[index]) for index in own],
        }
        for place, own in groupby(at, key=lambda index: code[index].place)
    ]


def _instruction(index: int, one: Instruction) -> dict[str, Any]:
    before, _, after = one.text.partition(one.opcode)
    return {
        "at": index,
        "group": GROUP_OF[one.unit],
        "unit": one.unit,
        "opcode": before + one.opcode,
        "rest": after,
        "target": one.target,
    }
