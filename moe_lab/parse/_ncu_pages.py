"""The two pages that ``ncu --csv`` prints, raw (a line a kernel) and details (a line a metric), as profiled kernels."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_lab.errors import UserError
from moe_lab.metrics import BY_NAME, by_label
from moe_lab.parse import _ncu_units
from moe_lab.parse._ncu import Axes, Named, Profiled

HOW = "write it with `ncu --import REPORT.ncu-rep --csv --page raw --print-units base`"
FACTS = {
    "device__attribute_display_name": "name",
    "device__attribute_total_memory": "memory_bytes",
    "device__attribute_total_global_memory": "memory_bytes",
    "device__attribute_l2_cache_size": "l2_cache_bytes",
    "device__attribute_global_memory_bus_width": "memory_bus_bits",
    "device__attribute_memory_clock_rate": "memory_clock_khz",
    "device__attribute_max_gpu_frequency_khz": "sm_clock_khz",
}
_HEADER = re.compile(r'^\ufeff?"?ID"?,"?(?:Process ID|Kernel Name)')
_LINE = re.compile(r'"?\d*"?,')  # begins with a number, or with nothing: the line of units
_NEAR_THE_TOP = 20_000  # lines: the profiled program may print before ncu does
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# domain:name:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg; the name, and Msg which repeats it, may hold colons.
_ENTRY = re.compile(r"([^:]*):(.*?):[^:]*:[^:]*:(?:none|ARGB|RGB|UNKNOWN)[^:]*:[^:]*:(?:none|[A-Z][A-Z_]+):(none|\2)")
DEFAULT_DOMAIN = "<default domain>"


@dataclass(frozen=True)
class Pages:
    """What a file holds.

    Attributes:
        rows: the kernels, in the order of the file.
        gpu: what it says of the GPU.
        hosts: host names in it.
    """

    rows: list[Profiled]
    gpu: dict[str, Any]
    hosts: list[str]


def is_page(path: Path) -> bool:
    """Return whether a text file holds a page of ncu; the lines before it may be anything."""
    with path.open(errors="replace") as file:
        return any(_HEADER.match(line) for _, line in zip(range(_NEAR_THE_TOP), file, strict=False))


def read(path: Path) -> Pages:
    """Read every page of a file.

    Raises:
        UserError: it holds no kernels.
    """
    rows: list[Profiled] = []
    gpu: dict[str, Any] = {}
    hosts: set[str] = set()
    for header, lines in _tables(path):
        comma = any(_ncu_units.writes_decimal_comma(cell) for line in lines for cell in _numbers(header, line))
        records = _details(header, lines, comma) if "Metric Name" in header else _raw(header, lines, comma)
        for fields, found, texts in records:
            rows.append(_profiled(fields, found))
            hosts.add(fields.get("Host Name", ""))
            gpu |= {ours: texts[theirs] for theirs, ours in FACTS.items() if theirs in texts}
            gpu.setdefault("compute_capability", fields.get("CC"))
    if not rows:
        raise UserError(f"{path.name} holds no profiled kernel; {HOW}.")
    return Pages(rows, gpu, sorted(h for h in hosts if len(h) > 3 and not re.fullmatch(r"[\d.:]+|localhost", h)))


Record = tuple[dict[str, str], dict[str, float], dict[str, Any]]  # fields of the kernel, metrics, facts


def _tables(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Give (header, lines) of each page; what the program and ncu (``==PROF==``) print between them is left out."""
    header: list[str] = []
    lines: list[list[str]] = []
    with path.open(errors="replace") as file:
        for text in file:
            if _HEADER.match(text):
                if header:
                    yield header, lines
                header, lines = _cells(text.lstrip("\ufeff")), []
            elif header and _LINE.match(text):
                line = _cells(text)
                if len(line) >= _least(header):
                    lines.append(line)
    if header:
        yield header, lines


def _cells(text: str) -> list[str]:
    return next(csv.reader([text]), [])


def _least(header: list[str]) -> int:
    """Return the fields that a line has at least; on the details page lines differ."""
    return header.index("Metric Value") + 1 if "Metric Value" in header else len(header)


def _numbers(header: list[str], line: list[str]) -> Iterator[str]:
    if "Metric Value" in header:
        at = header.index("Metric Value")
        yield from line[at : at + 1]
        return
    yield from (cell for name, cell in zip(header, line, strict=False) if name in BY_NAME)


def _raw(header: list[str], lines: list[list[str]], comma: bool) -> Iterator[Record]:
    units = dict(zip(header, lines[0], strict=False)) if lines and not lines[0][0] else {}
    for line in lines[1:] if units else lines:
        cells = dict(zip(header, line, strict=False))
        found = {}
        for name in BY_NAME.keys() & cells.keys():
            value = _ncu_units.number(cells[name], comma)
            if value is not None:
                found[name] = value * _ncu_units.scale(units.get(name, ""))[0]
        yield cells, found, _facts(cells)


def _facts(cells: Mapping[str, str]) -> dict[str, Any]:
    texts = {name: cells[name] for name in FACTS if cells.get(name)}
    return {name: text if FACTS[name] == "name" else int(_ncu_units.number(text) or 0) for name, text in texts.items()}


def _details(header: list[str], lines: list[list[str]], comma: bool) -> Iterator[Record]:
    kernels: dict[tuple[str, str], tuple[dict[str, str], dict[str, float]]] = {}
    for line in lines:
        cells = dict(zip(header, line, strict=False))  # lines of rules are longer
        key = cells.get("Process ID", ""), cells["ID"]
        found = kernels.setdefault(key, (cells, {}))[1]
        factor, unit = _ncu_units.scale(cells.get("Metric Unit", ""))
        metric = by_label(cells.get("Section Name", ""), cells.get("Metric Name", ""), unit)
        value = _ncu_units.number(cells.get("Metric Value", ""), comma)
        if metric is not None and value is not None:
            name = cells["Metric Name"] if cells["Metric Name"] in metric.names else metric.names[0]
            found.setdefault(name, value * factor)
    yield from ((fields, found, {}) for fields, found in kernels.values())


def _profiled(fields: Mapping[str, str], found: Mapping[str, float]) -> Profiled:
    thread, stack = _ranges(next((v for k, v in fields.items() if k and "Push/Pop_Range" in k), ""))
    free = _ranges(next((v for k, v in fields.items() if k and "Start/Stop_Range" in k), ""))[1]
    return Profiled(
        fields.get("Kernel Name", ""),
        _integer(fields.get("Process ID")),
        thread,
        _integer(fields.get("Stream")),
        _integer(fields.get("Device")),
        _axes(fields.get("Grid Size")),
        _axes(fields.get("Block Size")),
        stack,
        free,
        found,
    )


def _ranges(text: str) -> tuple[int, tuple[Named, ...]]:
    """Return (thread, ranges) of ``1  "<default domain>:outer:none:..."  "moe_lab:w13:none:..."``."""
    found = []
    for entry in _QUOTED.findall(text):
        whole = _ENTRY.fullmatch(entry)
        domain, name = whole.group(1, 2) if whole else (*entry.split(":"), "")[:2]
        found.append((None if domain == DEFAULT_DOMAIN else domain, name))
    return _integer(text.strip().split(" ")[0]), tuple(found)


def _integer(text: str | None) -> int:
    return int(text) if text and text.strip().isdigit() else -1


def _axes(text: str | None) -> Axes | None:
    """Return (256, 1, 1) for ``(256, 1, 1)``."""
    sizes = [int(n) for n in re.findall(r"\d+", text or "")]
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None
