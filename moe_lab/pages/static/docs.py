# SPDX-License-Identifier: Apache-2.0
"""What docs/static.md says about committed runs of ``moe-lab inspect``, as Markdown."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import static_check, static_tiles
from moe_lab.analysis.counters import counters_table
from moe_lab.analysis.phases import rows_of
from moe_lab.pages import load
from moe_lab.pages.readme import table
from moe_lab.pages.show.findings import number
from moe_lab.pages.static import findings
from moe_lab.spec import published

TILES = {"static_registers": "registers", "static_smem_bytes": "LDS, bytes", "static_occupancy_pct": "occupancy, %"}
TILES |= {"tile_flop_per_byte": "FLOP a byte", "loop_flop_per_instruction": "FLOP an instruction of a wavefront"}
AMD = {"static_vgprs": "VGPRs", "static_agprs": "AGPRs", "static_sgprs": "SGPRs", "static_smem_bytes": "LDS, bytes"}
AMD |= {"sgpr_spills": "SGPR spills", "vgpr_spills": "VGPR spills", "static_occupancy_pct": "occupancy, %"}


def align(run: str, algorithms: Sequence[str]) -> str:
    """Return the registers, LDS, spills and occupancy of align kernels on AMD, one row per kernel and architecture."""
    rows = load.compiled(run)
    rows = rows[rows["algorithm"].isin(list(algorithms))]
    lines = [
        [f"`{row.algorithm}`", f"`{row.kernel}`", row.arch, *(_text(getattr(row, column)) for column in AMD)]
        for row in rows_of(rows.sort_values(["algorithm", "launch", "arch"]))
    ]
    return table(["algorithm", "kernel", "for", *AMD.values()], lines, left=[0, 1, 2])


def align_published() -> str:
    """Return the registers of the published align kernels on AMD, with what they were measured on."""
    rows = published.table("align_amd")
    lines = [[row.kernel, row.vgprs, row.sgprs] for row in rows_of(rows)]
    setup = f"{published.ALIGN_AMD.label}: {published.ALIGN_AMD.setup}."
    return f"{table(['kernel', 'VGPRs', 'SGPRs'], lines, left=[0])}\n\n{setup}"


def coverage(captures: Sequence[str], compiled: Sequence[str]) -> str:
    """Return how many launches of each capture were compiled, how many agree exactly, and which kernels do not."""
    lines = []
    for one in load.checks(captures, compiled):
        apart = one.both[~one.both["exact"]].drop_duplicates(["call", "kernel"])
        said = ", ".join(dict.fromkeys(f"`{row.kernel}` of `{row.call}`" for row in rows_of(apart)))
        counts = one.counted, len(one.both), int(one.both["exact"].sum())
        lines.append([f"`{one.capture}`", *counts, said, ", ".join(f"`{name}`" for name in one.others)])
    return table(["capture", "launches", "compiled", "exact", "not exact", "not compiled"], lines, left=[0, 4, 5])


def check(run: str, capture: str) -> str:
    """Return the compiled code beside what Nsight Compute counted, and how many launches agree exactly."""
    found, compiled = runs.load(capture), runs.load(run)
    counted = counters_table(found.launches(), ["occupancy_theoretical_pct"])
    both = static_check.beside(compiled.rows(), counted, static_check.format_of(found.manifest))
    triton = [one.manifest["versions"]["triton"] for one in (compiled, found)]
    said = (
        f"{int(both['exact'].sum())} of {len(both)} launches have exactly the registers, the shared memory and the "
        f"occupancy of the capture `{capture}`; compiled by Triton {triton[0]}, captured with {triton[1]}."
    )
    head = ["M", "call", "stage", "kernel", "registers", "ncu", "shared memory", "ncu", "occupancy, %", "ncu"]
    lines = [
        [
            row.M,
            f"`{row.call}`",
            row.stage,
            f"`{row.kernel}`",
            *(_text(getattr(row, column)) for column in static_check.BESIDE),
        ]
        for row in rows_of(both)
    ]
    return f"{said}\n\n{table(head, lines, left=[1, 2, 3])}"


def tiles(run: str, M: int, part: str) -> str:
    """Return the tiles of a GEMM that are worth timing, and how many of all that were compiled."""
    known = static_tiles.tiles(load.compiled(run))
    shown = known[known["M"].eq(M) & known["part"].eq(part)]
    kept = [
        [row.arch, f"`{row.tile}`", *(_text(getattr(row, column)) for column in TILES)]
        for row in rows_of(shown[shown["why"].eq("")])
    ]
    said = "; ".join(
        f"{row.kept} of {row.tiles} on {row.arch} ({row.fail} do not compile, {row.spill} spill, {row.outdone} are no "
        "better than another in anything)"
        for row in rows_of(static_tiles.summary(known))
    )
    counts = f"Worth timing in `{run}`, for all sizes and both GEMMs: {said}. Those of {part} at {M} tokens:"
    return f"{counts}\n\n{table(['for', 'tile', *TILES.values()], kept, left=[0, 1])}"


def amiss(run: str) -> str:
    """Return the findings of a run as a list."""
    return "\n".join(f"* {finding}" for finding in findings.all_of(load.compiled(run)))


def _text(value: Any) -> str:
    return "" if pd.isna(value) else number(float(value)) if isinstance(value, float) else f"{value:,}"
