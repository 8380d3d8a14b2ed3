# SPDX-License-Identifier: Apache-2.0
"""What changed together with a time: kernels, grid, tile, registers, bytes; it names no cause."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

GEOMETRY = {
    "tile": ("tile", ""),
    "grid_blocks": ("grid", "blocks"),
    "block_threads": ("threads a block", ""),
    "registers_per_thread": ("registers a thread", ""),
    "smem_static_bytes": ("static shared memory", "bytes"),
    "smem_dynamic_bytes": ("dynamic shared memory", "bytes"),
}
# Counters that may explain a time, with the words and unit that say them; the share of a change worth a word.
COUNTERS = {
    "occupancy_achieved_pct": ("occupancy", "%"),
    "dram_read_bytes": ("DRAM read", "bytes"),
    "dram_write_bytes": ("DRAM written", "bytes"),
    "l2_bytes": ("L2", "bytes"),
    "l2_hit_pct": ("L2 hits", "%"),
    "smem_bank_conflicts": ("bank conflicts", ""),
    "instructions": ("instructions", ""),
    "tensor_pipe_pct": ("tensor pipe", "%"),
    "waves": ("waves", ""),
    "sm_clock_hz": ("SM clock", "Hz"),
}
CASES = {
    "version": ("release", ""),
    "tile": ("tile", ""),
    "stage": ("stages", ""),
    "rows_padded": ("padded rows", ""),
    "minimum_bytes": ("minimum bytes", ""),
    "workspace_bytes": ("workspace", "bytes"),
    "launches": ("launches", ""),
}
WORTH = 0.05  # of a number: less is not said
MOST = 4  # facts a row


def kernels(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """Return what changed among the kernels of a stage, or in one kernel.

    Args:
        one: rows of ``traced.facts`` of one run: kernel, launches (per instance), geometry, counters.
        other: those of the other.
    """
    a, b = (side.set_index("kernel") for side in (one, other))
    gone, new = [k for k in a.index if k not in b.index], [k for k in b.index if k not in a.index]
    said = []
    if gone and new:
        said.append(f"{_names(gone)} became {_names(new)}")
    elif gone or new:
        said.append(f"{_names(gone or new)} {'vanished' if gone else 'appeared'}")
    for name in a.index.intersection(b.index):
        changed = list(_changes(a.loc[name], b.loc[name], GEOMETRY | COUNTERS))
        if (times := _number("launches", a.loc[name], b.loc[name])) is not None:
            changed.insert(0, f"launches {times[0]:g} → {times[1]:g}")
        if changed:
            said.append((f"{name}: " if len(a) > 1 or len(b) > 1 else "") + ", ".join(changed[:MOST]))
    return said


def case(row: Mapping[str, Any]) -> list[str]:
    """Return what changed in a case of a benchmark: a row with each fact of ``CASES`` as ``<fact>_a``, ``<fact>_b``."""
    a, b = ({fact: row.get(f"{fact}_{side}") for fact in CASES} for side in ("a", "b"))
    said = list(_changes(a, b, CASES))
    one, other = (_pairs(row.get(f"kernels_{side}")) for side in ("a", "b"))
    gone, new = [k for k in one if k not in other], [k for k in other if k not in one]
    if one and other and (gone or new):
        said.append(f"kernels {_names(gone) or 'none'} became {_names(new) or 'none'}")
    elif one and other:
        apart = {name: other[name] - us for name, us in one.items()}
        most = max(apart, key=lambda name: abs(apart[name]))
        if abs(apart[most]) > WORTH * one[most]:
            said.append(f"most of it in {most}, {one[most]:.1f} → {other[most]:.1f} µs of a profiled call")
    return said[:MOST]


def _pairs(found: Any) -> dict[str, float]:
    return {name.rpartition("|")[2]: us for name, us in found} if isinstance(found, list) else {}


def _names(kernels: list[str]) -> str:
    return ", ".join(kernels[:2]) + (f" and {len(kernels) - 2} more" if len(kernels) > 2 else "")


def _changes(a: Any, b: Any, facts: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Yield ``grid 64 → 128 blocks`` for each fact that both state and that differs enough."""
    for fact, (word, unit) in facts.items():
        one, other = a.get(fact), b.get(fact)
        if _missing(one) or _missing(other):
            continue
        if isinstance(one, str) or isinstance(other, str):
            if str(one) != str(other):
                yield f"{word} {one} → {other} {unit}".rstrip()
        elif abs(other - one) > WORTH * abs(one):
            yield f"{word} {_short(one)} → {_short(other)} {unit}".rstrip()


def _number(fact: str, a: Any, b: Any) -> tuple[float, float] | None:
    one, other = float(a[fact]), float(b[fact])
    return (one, other) if abs(other - one) > WORTH * one else None


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _short(value: float) -> str:
    """Return a number of at most four digits, with k, M, G, T for thousands."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{value:.4g}"
