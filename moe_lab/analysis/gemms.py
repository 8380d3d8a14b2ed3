# SPDX-License-Identifier: Apache-2.0
"""The expert GEMMs in captures of ``moe_lab.gpu experts``: one row per backend, M and stage, with its problem."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis import amd, counters, tiles
from moe_lab.analysis.bench_rows import some
from moe_lab.analysis.geometry import last_wave_fill_pct, limiter, limits
from moe_lab.spec import formats, ranges
from moe_lab.spec.architectures import occupancy
from moe_lab.spec.launches import Launches
from moe_lab.spec.metrics import COUNTERS
from moe_lab.spec.problem import has_gate

PARTS = ("w13", "w2")


def of_stage(table: pd.DataFrame, stage: str) -> list[pd.DataFrame]:
    """Return the rows of w13 or w2, alone or fused, as a list of one table; an empty list if there are none."""
    return some(table[[stage in str(s).split("+") for s in table["stage"]]])


COLUMNS = (
    *("run", "series", "backend", "tiles", "M", "stage", "part", "name", "launches", "duration_us", "other_us"),
    *("grid_blocks", "block_threads", "registers_per_thread", "smem_bytes", "blocks_per_sm", "limiter", "waves"),
    *("working_waves", "last_wave_fill_pct", "tile", "tile_source", *tiles.FIELDS[:4], "tiles_computed"),
    *("blocks_empty", "persistent", "K", "N", "E", "topk", "biases", "format", "element_bytes", "gemm_n", "gemm_k"),
    *("out_elements", "experts_hit", "rows_useful", "rows_padded", "rows_padded_by", "sm_count", "timed_by"),
)
ALL_COLUMNS = [*COLUMNS, *(m.column for m in COUNTERS if m.column not in COLUMNS)]


def gemms(launches: Launches, workload: Mapping[str, Any], gpu: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row for each root range and GEMM stage: its longest kernel, with counters, geometry and problem.

    Stages that fuse both GEMMs are left out, as their kernels are not a single product. Counters of rocprof-compute
    come without ranges: there each kernel name is a row, and stage, part and M are NA.

    Args:
        launches: counters of ncu, or a timeline (then the counters are NA).
        workload: how ``moe_lab.gpu experts`` (or ``layer``) described itself; empty = not known.
        gpu: sm_count and compute_capability.

    Returns:
        ``COLUMNS`` and every counter of ``metrics.csv``: series (backend, with its tiles if they were chosen by hand),
        other_us (time of the stage's other kernels), waves (of the launched blocks), working_waves and
        last_wave_fill_pct (of blocks with a tile; NA for persistent kernels and unknown tiles), tile (``64x64x32``),
        tile_source, out_elements (elements written: half of w13's columns with a fused activation, one row per token
        with a fused combine), tiles_computed, blocks_empty, rows_padded_by (block_m -> rows), timed_by (``ncu``,
        ``rocprof-compute`` or ``timeline``).
    """
    of_amd = amd.has_counters(launches)
    counted = [m.column for m in COUNTERS if m.column in launches.table]
    rows = []
    unnamed = (("", None, [frame]) for _, frame in counters.grouped(launches))
    for root, stage, kernels in unnamed if of_amd and launches.ranges.empty else _stages(launches):
        # A stage may launch small helpers (zeroing, quantising) besides its GEMM, which takes most of the time.
        by = sorted(kernels, key=lambda one: -np.nan_to_num(_duration(one)))
        main, rest = by[0], by[1:]
        row: dict[str, Any] = {"stage": stage, "name": main["name"].iloc[0], "launches": len(main)}
        row |= {"duration_us": _duration(main), "other_us": sum(map(_duration, rest))}
        columns = ("grid_blocks", "block_threads", "registers_per_thread", "smem_static_bytes", "smem_dynamic_bytes")
        row |= {column: counters.same(main[column]) for column in columns}
        row |= {column: main[column].astype("Float64").median() for column in counted}
        row |= counters.of_amd(launches, main) if of_amd else {}
        row["smem_bytes"] = counters.same(main["smem_bytes"]) if "smem_bytes" in main else None
        timed = "ncu" if main["start_ns"].isna().all() else "timeline"  # ncu runs kernels alone: no start times
        row["timed_by"] = "rocprof-compute" if of_amd else timed
        nameless = {"series": row["name"], "backend": "unknown backend"}
        row |= _problem(root, stage, workload, bool(rest)) if stage else nameless
        rows.append(row | _geometry(row, gpu))
    frame = pd.DataFrame(rows, columns=ALL_COLUMNS)
    kept = frame["rows_padded_by"]  # a column of dictionaries, which has no other type
    typed = frame.drop(columns="rows_padded_by").convert_dtypes().copy()  # one block: without a row it has one a column
    return typed.assign(rows_padded_by=kept)


def _stages(launches: Launches) -> Iterator[tuple[str, str, list[pd.DataFrame]]]:
    """Yield (root, stage, the launches of each of its kernels) for every stage that holds w13 or w2."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (path, *_), frame in counters.grouped(launches):
        root, *inner = str(path).split("/")
        # The innermost stage counts; one that holds both GEMMs is not a single product.
        stage = next((s for s in reversed(inner) if len(set(ranges.stages_of(s)) & set(PARTS)) == 1), None)
        if stage and ranges.parse_root(root):
            found.setdefault((root, stage), []).append(frame)
    yield from ((*place, frames) for place, frames in found.items())


def _duration(frame: pd.DataFrame) -> float:
    """Return the median time of launches in us, NaN where none was timed."""
    return float(frame["duration_ns"].astype("float64").median()) / 1e3


def point(workload: Mapping[str, Any], root: str) -> Mapping[str, Any]:
    """Return what a workload states about one of its roots: problem, rows and tiles; empty if it states nothing."""
    points = workload.get("points")
    if points is None:
        return workload if workload.get("problem") else {}
    return next((p for p in points if p.get("root") == root), {})


def _problem(root: str, stage: str, workload: Mapping[str, Any], several: bool) -> dict[str, Any]:
    fields, own = ranges.parse_root(root) or {}, point(workload, root)
    sizes = own.get("problem") or {}
    chosen = fields.get("tiles", "")
    backend = fields.get("backend") or "unknown backend"
    part = next(p for p in PARTS if p in ranges.stages_of(stage))
    M = sizes.get("M") or (int(fields["M"]) if fields.get("M", "").isdecimal() else None)
    out: dict[str, Any] = {"backend": backend, "tiles": chosen or None, "M": M, "part": part}
    out["series"] = backend if chosen in ("", "auto") else f"{backend} {chosen}"
    out |= {k: sizes.get(k) for k in ("K", "N", "E", "topk")} | {"biases": bool(sizes.get("biases"))}
    out |= {k: own.get(k) for k in ("experts_hit", "rows_useful", "rows_padded")}
    out["rows_padded_by"] = own.get("rows_padded_by_block_m")
    out["format"] = formats.stated(sizes)
    out["element_bytes"] = formats.get(out["format"]).element_bytes if out["format"] else None
    if sizes.get("K") and sizes.get("N"):
        rows13 = sizes["N"] * (2 if has_gate(sizes.get("activation") or "silu") else 1)
        wide, deep = (rows13, sizes["K"]) if part == "w13" else (sizes["K"], sizes["N"])
        out |= {"gemm_n": wide, "gemm_k": deep, "out_elements": _written(ranges.stages_of(stage), sizes, wide, several)}
    return out | {"stated": (own.get("tiles") or {}).get(part)}


def _written(stages: Sequence[str], sizes: Mapping[str, Any], wide: int, several: bool) -> int:
    """Return the elements that a GEMM writes, which is less than [pairs, gemm_n] if the next stage is fused into it.

    In a stage of ``several`` kernels the combine is a kernel of its own, and the GEMM writes every pair.
    """
    rows = sizes["M"] if "combine" in stages and not several else sizes["M"] * sizes["topk"]
    return int(rows * (wide // 2 if "act" in stages and "w13" in stages else wide))


def _geometry(row: Mapping[str, Any], gpu: Mapping[str, Any]) -> dict[str, Any]:
    """Return the occupancy by the CUDA rules, the tile, and how many blocks have a tile to compute."""
    static, dynamic, grid = row["smem_static_bytes"], row["smem_dynamic_bytes"], row["grid_blocks"]
    out: dict[str, Any] = {"sm_count": gpu.get("sm_count")}
    out["smem_bytes"] = row["smem_bytes"] if static is None or dynamic is None else int(static + dynamic)
    card = limits(str(gpu.get("compute_capability")))
    known = (row["block_threads"], row["registers_per_thread"], out["smem_bytes"])
    if card and all(k is not None for k in known):
        threads, registers, smem = (int(k) for k in known if k is not None)
        found = occupancy(card, math.ceil(threads / card.warp_threads), registers, smem)
        out |= {"blocks_per_sm": found.blocks, "limiter": limiter(found)}
    grid = None if grid is None else int(grid)
    at_once = out.get("blocks_per_sm", 0) * (gpu.get("sm_count") or 0)
    sized = False
    if grid and at_once:  # a multiple of the SMs that all runs at once was sized by the GPU, not by the problem
        sized = grid <= at_once and grid % int(gpu["sm_count"]) == 0
        out |= {"waves": grid / at_once, "persistent": sized}
    if row.get("gemm_n") is None or row.get("rows_useful") is None:
        return out
    told_by = None if sized else grid  # a grid sized by the GPU says nothing about the tile
    tile = tiles.recover(row["stated"], row["name"], told_by, row["rows_useful"], row["E"], row["gemm_n"])
    if tile is None:
        return out
    out |= {"tile": tile.label, "tile_source": tile.source}
    out |= {key: getattr(tile, key) for key in tiles.FIELDS[:4]}
    by = row.get("rows_padded_by") or {}
    padded = by.get(str(tile.block_m), row.get("rows_padded"))
    counted = tiles.blocks(tile, grid, padded, row["gemm_n"], sized)
    out["rows_padded"] = padded
    if counted is None:
        return out
    out |= {"tiles_computed": counted.tiles, "blocks_empty": counted.empty, "persistent": counted.persistent}
    if at_once and not counted.persistent:
        waves = counted.tiles / at_once
        out |= {"working_waves": waves, "last_wave_fill_pct": last_wave_fill_pct(counted.tiles, at_once)}
    return out
