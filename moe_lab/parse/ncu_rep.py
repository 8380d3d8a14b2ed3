"""Nsight Compute: a .ncu-rep, read with NVIDIA's ncu-report package, to launches with counters."""

import importlib
from pathlib import Path
from typing import Any

from moe_lab.errors import UserError
from moe_lab.launches import Launches
from moe_lab.metrics import BY_NAME
from moe_lab.parse import _ncu, _ncu_pages, _ncu_slim, _ncu_units
from moe_lab.parse._slim import Keep

INFO = {
    "about": "report of Nsight Compute (.ncu-rep; needs the package ncu-report)",
    "suffixes": [".ncu-rep"],
    "report": "report.csv",
}


def sniff(path: Path) -> bool:
    """Return whether this is a report of ncu, by its name."""
    return path.is_file() and path.suffix == ".ncu-rep"


def parse(path: Path) -> Launches:
    """Read the kernels of a report; the table is that of ``ncu_csv`` on its raw page.

    Raises:
        UserError: ncu-report is not installed, or the file is no report or holds no kernels.
    """
    rows, gpu = _read(Path(path))
    return _ncu.assemble(rows, _ncu.facts(gpu, rows))


def slim(source: Path, target: Path, keep: Keep | None = None) -> tuple[list[str], list[str]]:
    """Write a small, redacted copy as CSV, because a .ncu-rep holds environment and paths; see ``ncu_csv.slim``."""
    rows, gpu = _read(Path(source))
    _ncu_slim.write(rows, gpu, target, keep, ())
    return list(_ncu_slim.DROPPED), []


def _read(path: Path) -> tuple[list[_ncu.Profiled], dict[str, Any]]:
    try:
        ncu_report: Any = importlib.import_module("ncu_report")
    except ImportError:
        raise UserError(
            f"Reading {path.name} needs NVIDIA's ncu-report: pip install 'moe-lab[ncu]' (or export it where ncu is "
            f"installed: ncu --import {path.name} --csv --page raw --print-units base > {path.stem}.csv)."
        ) from None
    try:
        context = ncu_report.load_report(str(path))
        actions = [action for stream in context for action in stream]
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path.name} cannot be read by ncu-report ({str(error)[:120]}); it may be damaged, or newer than the "
            "package: pip install -U ncu-report."
        ) from None
    if not actions:
        raise UserError(f"{path.name} holds no profiled kernel; {_ncu_pages.HOW}.")
    base = ncu_report.IAction.NameBase_DEMANGLED
    return [_profiled(action, base) for action in actions], _gpu(actions[0])


def _profiled(action: Any, base: int) -> _ncu.Profiled:
    names = set(action.metric_names())
    measured = {}
    for name in BY_NAME.keys() & names:
        value = action[name].value()
        if isinstance(value, int | float) and abs(value) < float("inf"):
            measured[name] = float(value) * _ncu_units.scale(action[name].unit() or "")[0]
    stack, free = _ranges(action.nvtx_state())
    return _ncu.Profiled(
        action.name(base),
        _integer(action, names, "launch__process_id"),
        -1,
        _integer(action, names, "launch__stream_id"),
        _integer(action, names, "launch__device_id"),
        _axes(action, names, "grid"),
        _axes(action, names, "block"),
        stack,
        free,
        measured,
    )


def _integer(action: Any, names: set[str], name: str) -> int:
    return int(action[name].value()) if name in names else -1


def _axes(action: Any, names: set[str], what: str) -> _ncu.Axes | None:
    sizes = [_integer(action, names, f"launch__{what}_dim_{axis}") for axis in "xyz"]
    return (sizes[0], sizes[1], sizes[2]) if min(sizes) >= 0 else None


def _ranges(state: Any) -> tuple[tuple[_ncu.Named, ...], tuple[_ncu.Named, ...]]:
    """Return (push/pop ranges, start/end ranges)."""
    stack: list[_ncu.Named] = []
    free: list[_ncu.Named] = []
    for number in state or ():
        domain = state[number]
        name = domain.name() or None
        name = None if name == _ncu_pages.DEFAULT_DOMAIN else name
        stack += [(name, n) for n in domain.push_pop_ranges()]
        free += [(name, n) for n in domain.start_end_ranges()]
    return tuple(stack), tuple(free)


def _gpu(action: Any) -> dict[str, Any]:
    names = set(action.metric_names())
    gpu = {ours: action[theirs].value() for theirs, ours in _ncu_pages.FACTS.items() if theirs in names}
    parts = [f"device__attribute_compute_capability_{part}" for part in ("major", "minor")]
    if names.issuperset(parts):
        gpu["compute_capability"] = ".".join(str(int(action[p].value())) for p in parts)
    return gpu
