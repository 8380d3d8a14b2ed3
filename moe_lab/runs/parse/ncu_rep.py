# SPDX-License-Identifier: Apache-2.0
"""Nsight Compute: a .ncu-rep, read with NVIDIA's ncu-report package, to launches with counters."""

import importlib
import math
from pathlib import Path
from typing import Any

from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.ncu import pages, units
from moe_lab.runs.parse.ncu import rows as ncu
from moe_lab.runs.parse.ncu.slim import write
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line
from moe_lab.spec.launches import Launches
from moe_lab.spec.metrics import BY_NAME

INFO = {
    "about": "report of Nsight Compute (.ncu-rep; needs the package ncu-report)",
    "report": "report.csv",
}


def sniff(path: Path) -> bool:
    """Return whether this is a report of ncu, by its name."""
    return path.is_file() and path.suffix == ".ncu-rep"


def parse(path: Path) -> Launches:
    """Read the kernels of a report; the table is the same as that of ``ncu_csv`` from its raw page.

    Raises:
        UserError: ncu-report is not installed, or the file is not a report or holds no kernels.
    """
    rows, gpu, notes = _read(Path(path))
    return ncu.assemble(rows, ncu.facts(gpu, rows, notes))


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy as CSV, because a .ncu-rep holds environment and paths; see ``ncu_csv.slim``."""
    rows, gpu, _ = _read(Path(source))
    return write(rows, gpu, target, keep, [])


def _read(path: Path) -> tuple[list[ncu.Profiled], dict[str, Any], list[str]]:
    """Return (kernels, facts of the GPU, notes)."""
    try:
        ncu_report: Any = importlib.import_module("ncu_report")
    except ImportError:
        raise UserError(
            f"Reading {path.name} needs NVIDIA's ncu-report: pip install 'moe-lab[ncu]' (or export it where ncu is "
            f"installed: ncu --import {path.name} --csv --page raw --print-units base > {path.stem}.csv)."
        ) from None
    try:
        context = ncu_report.load_report(str(path))
        kernels = [_Kernel(action) for stream in context for action in stream]
        base = ncu_report.IAction.NameBase_DEMANGLED
        rows = [kernel.profiled(base) for kernel in kernels]
        gpu = kernels[0].gpu() if kernels else {}
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"{path.name} cannot be read by ncu-report ({one_line(str(error), 120)}); it may be damaged, or newer than "
            "the package: pip install -U ncu-report."
        ) from None
    if not rows:
        raise UserError(f"{path.name} holds no profiled kernel; {pages.HOW}.")
    return rows, gpu, _notes(kernels)


class _Kernel:
    """A kernel of the report (``IAction``), whose values are all checked.

    Attributes:
        odd: metrics whose value cannot be true; they count as not measured.
    """

    def __init__(self, action: Any) -> None:
        self.action = action
        self.names = set(action.metric_names())
        self.odd: set[str] = set()

    def profiled(self, base: int) -> ncu.Profiled:
        """Return the kernel; ``base`` selects which of its names to take."""
        measured = {name: v for name in sorted(BY_NAME.keys() & self.names) if (v := self._measured(name)) is not None}
        stack, free = _ranges(self.action.nvtx_state())
        return ncu.Profiled(
            _text(self.action.name(base)) or "(unnamed)",
            self._integer("launch__process_id"),
            -1,  # ncu-report does not tell the thread
            self._integer("launch__stream_id"),
            self._integer("launch__device_id"),
            self._axes("grid"),
            self._axes("block"),
            stack,
            free,
            measured,
        )

    def gpu(self) -> dict[str, Any]:
        """Return the facts of the GPU."""
        known = {name: ours for name, ours in pages.FACTS.items() if name in self.names}
        gpu: dict[str, Any] = {ours: _text(self.action[n].value()) for n, ours in known.items() if ours == "name"}
        for name, ours in known.items():
            if ours != "name" and (size := self._integer(name)) > 0:
                gpu[ours] = size
        parts = [self._integer(f"device__attribute_compute_capability_{part}") for part in ("major", "minor")]
        return gpu | ({"compute_capability": f"{parts[0]}.{parts[1]}"} if min(parts) >= 0 else {})

    def _measured(self, name: str) -> float | None:
        """Return a value in the base unit of its metric; None for NaN, which is the ratio of two zeros."""
        metric, value = BY_NAME[name], self.action[name].value()
        if isinstance(value, float) and math.isnan(value):
            return None
        factor, base = units.scale(_text(self.action[name].unit()) or "")
        most = pages.TEN_DAYS_NS if metric.unit == "ns" else units.LARGEST
        known = type(value) in (int, float) and 0 <= value < units.LARGEST and value * factor < most
        if known and pages.fits(metric, name, base):
            return float(value) * factor
        self.odd.add(name)
        return None

    def _integer(self, name: str, most: int = 2**62) -> int:
        """Return a whole number, -1 where there is none."""
        if name not in self.names:
            return -1
        value = self.action[name].value()
        if type(value) in (int, float) and 0 <= value < most and value == int(value):
            return int(value)
        self.odd.add(name)
        return -1

    def _axes(self, what: str) -> ncu.Axes | None:
        x, y, z = (self._integer(f"launch__{what}_dim_{axis}", 2**31) for axis in "xyz")
        return (x, y, z) if min(x, y, z) >= 0 and x * y * z < units.LARGEST else None


def _notes(kernels: list[_Kernel]) -> list[str]:
    """Return a sentence on values that cannot be true."""
    odd = sorted(set().union(*(kernel.odd for kernel in kernels)))
    if not odd:
        return []
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    count = sum(bool(kernel.odd) for kernel in kernels)
    return [f"{count} of {len(kernels)} kernels have values that cannot be true ({', '.join(odd[:3])}{more}): NA."]


def _text(value: Any) -> str | None:
    """Return a text, None for anything else and for an empty one."""
    return value if isinstance(value, str) and value else None


def _ranges(state: Any) -> tuple[tuple[ncu.Named, ...], tuple[ncu.Named, ...]]:
    """Return (push/pop ranges, start/end ranges)."""
    stack: list[ncu.Named] = []
    free: list[ncu.Named] = []
    for number in state or ():
        domain = state[number]
        name = _text(domain.name())
        name = None if name == pages.DEFAULT_DOMAIN else name
        stack += [(name, _text(n) or "(unnamed)") for n in domain.push_pop_ranges()]
        free += [(name, _text(n) or "(unnamed)") for n in domain.start_end_ranges()]
    return tuple(stack), tuple(free)
