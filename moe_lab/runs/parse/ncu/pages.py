# SPDX-License-Identifier: Apache-2.0
"""The pages of ``ncu --csv`` as profiled kernels: raw (one line per kernel) and details (one line per metric)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_lab.runs.parse import _facts
from moe_lab.runs.parse.ncu import lines as ncu_lines
from moe_lab.runs.parse.ncu import units as ncu_units
from moe_lab.runs.parse.ncu.rows import Axes, Named, Profiled
from moe_lab.runs.redact.names import is_telling
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry
from moe_lab.spec.metrics import BY_NAME, Metric, by_label

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
UNITS = ("ns", "byte", "hz", "%")  # a metric in one of these must have its unit on the page to be read
TEN_DAYS_NS = 8.64e14  # no kernel takes so long; sums of durations stay within 64 bits
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# domain:name:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg; the name, and Msg which repeats it, may hold colons.
_ENTRY = re.compile(r"([^:]*):(.*?):[^:]*:[^:]*:(?:none|ARGB|RGB|UNKNOWN)[^:]*:[^:]*:(?:none|[A-Z][A-Z_]+):(none|\2)")
NEEDED = ("ID", "Kernel Name")
DEFAULT_DOMAIN = "<default domain>"


@dataclass(frozen=True)
class Pages:
    """What a file holds.

    Attributes:
        rows: the kernels, in the order of the file.
        gpu: facts of the GPU.
        hosts: host and user names in the file.
        notes: sentences on what to be careful with.
    """

    rows: list[Profiled]
    gpu: dict[str, Any]
    hosts: list[str]
    notes: list[str]


def read(path: Path) -> Pages:
    """Read every page of a file."""
    try:
        found = _read(path)
    except ValueError as error:
        raise UserError(
            f"{path.name} cannot be read as a page of ncu ({entry.one_line(str(error), 300)}); {HOW}."
        ) from None
    if not found.rows:
        raise UserError(f"{path.name} holds no profiled kernel; {HOW}.")
    return found


Record = tuple[dict[str, str], dict[str, float], dict[str, Any]]  # fields of the kernel, metrics, facts


def _read(path: Path) -> Pages:
    rows: list[Profiled] = []
    gpu: dict[str, Any] = {}
    hosts: set[str] = set()
    notes: list[str] = []
    tables = [(header, *_split(header, lines)) for header, lines in ncu_lines.tables(path)]
    comma = ncu_units.decimal_comma(cell for table in tables for cell in _numbers(*table))
    for header, units, lines in tables:
        details = "Metric Value" in header
        records = list(_details(header, lines, comma) if details else _raw(header, units, lines, comma))
        notes += _fewer(records) if details else []
        for fields, found, texts in records:
            rows.append(_profiled(fields, found))
            hosts |= {fields.get("Host Name", ""), fields.get("User Name", "")}
            gpu |= {ours: texts[theirs] for theirs, ours in FACTS.items() if theirs in texts}
            gpu.setdefault("compute_capability", fields.get("CC"))
    # An address or localhost names no machine.
    named = sorted(h for h in hosts if is_telling(h) and not re.fullmatch(r"[\d.:]+|localhost", h))
    return Pages(rows, gpu, named, notes)


def _split(header: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return (units, lines) of a page; the details page has a unit in each line, and no line of units."""
    twice = sorted(name for name in {*BY_NAME, *FACTS, *NEEDED, "Metric Value"} if header.count(name) > 1)
    lost = [name for name in NEEDED if name not in header]
    if twice or lost:
        raise ValueError(f"it has the column {twice[0]} twice" if twice else f"it has no column {lost[0]}")
    if "Metric Value" in header:
        if "Metric Unit" not in header or "Metric Name" not in header:
            raise ValueError("it has no column Metric Unit or no column Metric Name")
        return [], lines
    has_units = bool(lines) and not lines[0][0]  # the line of units has no ID
    return (lines[0], lines[1:]) if has_units else ([], lines)


def _numbers(header: list[str], units: list[str], lines: list[list[str]]) -> Iterator[ncu_units.Cell]:
    """Yield every number of a page, even those that are not kept: together they tell the locale."""
    if "Metric Value" in header:
        where = [header.index(c) for c in ("Metric Name", "Metric Unit", "Metric Value")]
        section = header.index("Section Name") if "Section Name" in header else None
        for line in lines:
            name, unit, text = (line[i] for i in where)
            metric = by_label("" if section is None else line[section], name, ncu_units.scale(unit)[1])
            known = name if metric is None or name in BY_NAME else metric.names[0]
            yield ncu_units.Cell(known, unit, text, metric is not None)
        return
    columns = [(i, name, units[i] if units else "") for i, name in enumerate(header) if "__" in name]
    for line in lines:
        yield from (ncu_units.Cell(name, unit, line[i], name in BY_NAME) for i, name, unit in columns)


def _raw(header: list[str], units: list[str], lines: list[list[str]], comma: bool) -> Iterator[Record]:
    unit = dict(zip(header, units, strict=False))
    names = [name for name in header if name in BY_NAME]
    for line in lines:
        cells = dict(zip(header, line, strict=False))
        values = {name: _base(BY_NAME[name], name, cells[name], unit.get(name, ""), comma) for name in names}
        yield cells, {name: value for name, value in values.items() if value is not None}, _of_gpu(cells, comma)


def _base(metric: Metric, name: str, text: str, unit: str, comma: bool) -> float | None:
    """Return a value in the base unit of its metric, None where there is none."""
    value = _number(name, text, comma)
    if value is None:
        return None
    factor, base = ncu_units.scale(unit)
    if not fits(metric, name, base):
        raise ValueError(f"{name} is in '{entry.one_line(unit, 40)}', which is not a unit of {metric.unit}")
    if value * factor >= (TEN_DAYS_NS if metric.unit == "ns" else ncu_units.LARGEST):
        raise ValueError(f"{name} is {entry.one_line(text, 40)} {unit}, which cannot be")
    return value * factor


def fits(metric: Metric, name: str, base: str) -> bool:
    """Return whether a base unit fits the metric; parts of a metric have units of their own."""
    whole = name in metric.names or name in metric.labels
    return not whole or metric.unit not in UNITS or base.split("/block")[0] == metric.unit


def _of_gpu(cells: Mapping[str, str], comma: bool) -> dict[str, Any]:
    texts = {name: cells[name] for name in FACTS if cells.get(name)}
    return {
        name: text if FACTS[name] == "name" else int(_number(name, text, comma) or 0) for name, text in texts.items()
    }


def _number(name: str, text: str, comma: bool) -> float | None:
    try:
        return ncu_units.number(text, comma)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _details(header: list[str], lines: list[list[str]], comma: bool) -> Iterator[Record]:
    kernels: dict[tuple[str, str], tuple[dict[str, str], dict[str, float]]] = {}
    for line in lines:
        cells = dict(zip(header, line, strict=False))  # lines of rules are longer than the header
        key = cells.get("Process ID", ""), cells["ID"]
        found = kernels.setdefault(key, (cells, {}))[1]
        label, unit = cells["Metric Name"], cells["Metric Unit"]
        metric = by_label(cells.get("Section Name", ""), label, ncu_units.scale(unit)[1])
        value = None if metric is None else _base(metric, label, cells["Metric Value"], unit, comma)
        if metric is not None and value is not None:
            found.setdefault(label if label in BY_NAME else metric.names[0], value)
    yield from ((fields, found, {}) for fields, found in kernels.values())


def _fewer(records: list[Record]) -> list[str]:
    """Return a sentence if the last kernel lacks metrics that all others have: the file may be truncated."""
    if len(records) < 2:
        return []
    every = set.intersection(*(set(found) for _, found, _ in records[:-1]))
    lost = every - set(records[-1][1])
    said = (
        f"The last kernel has {len(every) - len(lost)} of the {len(every)} metrics that all others have: the file may "
        "be truncated, and kernels after it may be missing."
    )
    return [said] if lost else []


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
    for item in _QUOTED.findall(text):
        whole = _ENTRY.fullmatch(item)
        # Unknown layouts: the first two fields.
        domain, name = whole.group(1, 2) if whole else (*item.split(":"), "")[:2]
        found.append((None if domain == DEFAULT_DOMAIN else domain, name))
    return _integer(text.strip().split(" ")[0]), tuple(found)


def _integer(text: str | None) -> int:
    found = _facts.number((text or "").strip(), range(2**63))
    return -1 if found is None else found


def _axes(text: str | None) -> Axes | None:
    """Return (256, 1, 1) for ``(256, 1, 1)``; None for sizes that no launch can have."""
    sizes = [int(n) for n in re.findall(r"[0-9]+", text or "") if len(n) < 11]
    fits = len(sizes) == 3 and sizes[0] * sizes[1] * sizes[2] < ncu_units.LARGEST
    return (sizes[0], sizes[1], sizes[2]) if fits else None
