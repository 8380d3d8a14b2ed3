# SPDX-License-Identifier: Apache-2.0
"""Tables of the notebook on kernel counters: a DataFrame in, HTML out."""

from dataclasses import replace

import pandas as pd

from moe_lab.analysis.limits import beside
from moe_lab.pages.rocprof_compute.tables import glossary
from moe_lab.pages.show import tiles
from moe_lab.pages.show.notes import Note, or_note, roofs
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published

__all__ = ["ceilings", "geometry", "glossary", "kernels", "other_tiles", "published_counters", "roofs", "traffic"]

WORTH_PCT = 10.0  # smaller savings are within the error of the model
NONE = "Nothing to show: no run with the kernels of w13 or w2 was read."
NAMES = {"dram": "DRAM", "l2": "L2", "tensor": "tensor"}
_GRID, _BLOCK = heads("grid_blocks", label="grid"), heads("block_threads", label="block")


def _who(frame: pd.DataFrame) -> list[Column]:
    """Return the columns that identify a GEMM; the GPU is one of them if the table holds several."""
    return heads("gpu series M stage" if "gpu" in frame else "series M stage")


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by GPU, in order of appearance, then by GEMM, M and series."""
    # By part, so that w13 and w13+act are together.
    by = ["part" if "part" in frame else "stage", "M", "series"]
    if "gpu" not in frame:
        return frame.sort_values(by)
    return frame.assign(order=pd.factorize(frame["gpu"])[0]).sort_values(["order", *by])


def kernels(table: pd.DataFrame, limits: pd.DataFrame) -> Table | Note:
    """Return time, launch, throughput and traffic of every GEMM, with what limits it.

    ``table`` is ``analysis.gemms.gemms``, ``limits`` is ``analysis.limits.limits``; with several GPUs both have a
    column gpu, as in all tables here.
    """
    if table.empty:
        return Note(NONE)
    shown = beside(table, limits)
    for column in ("dram_read_bytes", "l2_sm_bytes"):
        shown[column.replace("_bytes", "_gb")] = shown[column].astype("Float64") / 1e9
    busy, counted = "share by which that is decided", "of the theoretical peak, by ncu"
    columns = [
        *_who(shown),
        *heads("limiter"),
        *heads("dram_pct on_chip_pct compute_pct", group=busy, most=100.0),
        *heads("duration_us"),
        *(heads("timeline_us") if "timeline_us" in table else []),
        *_GRID,
        *_BLOCK,
        *heads("sm_throughput_pct mem_throughput_pct", group=counted, bar=100.0),
        *heads("dram_throughput_pct tensor_pipe_pct", group=counted),
        *heads("dram_read_gb l2_sm_gb"),
        *heads("l2_pct", most=100.0),
        *heads("l2_hit_pct"),
        *(heads("other_us") if (table["other_us"] > 0).any() else []),
    ]
    return Table(_in_order(shown), columns)


def published_counters() -> Table:
    """Return what was published for an L40, marked as figures of others."""
    source = published.L40_COUNTERS
    columns = [
        *heads("backend M stage", theirs=True),
        *heads("duration_us", digits=0, theirs=True),
        *(replace(column, theirs=True) for column in (*_GRID, *_BLOCK)),
        *heads("sm_throughput_pct mem_throughput_pct", unit="% of its peak", bar=100.0, theirs=True),
    ]
    return Table(published.w13_counters(), columns, f"{source.label}, not measured here: {source.setup}")


def ceilings(costs: pd.DataFrame, limits: pd.DataFrame) -> Table | Note:
    """Return the time that each roof alone would cost, the time lost beyond the largest, and what limits the kernel.

    ``costs`` is ``analysis.roofline.ceilings``; unlike ``limits``, it has no rows for kernels without a time.
    """
    alone = "time that this roof alone asks for"
    keys = [column.key for column in _who(costs)]
    # A repeated key would repeat rows in the merge.
    shown = costs.merge(limits[[*keys, "limiter"]].drop_duplicates(keys), on=keys, how="left")
    sources = costs[["dram_bytes_from", "l2_bytes_from", "flop_from"]].fillna("not known").to_numpy().tolist()
    shown["counts_from"] = [one[0] if len(set(one)) == 1 else ", ".join(one) for one in sources]
    columns = [
        *_who(shown),
        *heads("limiter duration_us"),
        *heads("dram_us l2_us tensor_us", group=alone),
        *heads("lost_us", unit="µs beyond the highest"),
        *heads("pct_of_floor", bar=100.0, most=100.0),
        *heads("counts_from"),
    ]
    return or_note(shown, Table(shown, columns), NONE)


def traffic(moved: pd.DataFrame) -> Table | Note:
    """Return the fewest bytes, those by the model and those counted (``analysis.traffic.traffic``)."""
    sizes = [c for c in moved.columns if str(c).endswith("_bytes")]
    shown = moved.assign(**{c: moved[c].astype("Float64") / 1e9 for c in sizes})
    counted, model = "counted", "by the model, through L2"
    shown, tile = tiles.split(shown, "tile")
    columns = [
        *_who(shown),
        *tile,
        *heads("minimum_bytes", unit="GB", digits=3),
        *heads("l2_a_bytes l2_b_bytes l2_model_bytes", group=model),
        *heads("l2_counted_bytes l2_counted_of dram_bytes", group=counted),
        *heads("dram_waste l2_per_minimum"),
        *heads("model_error_pct dram_error_pct", group="model"),
    ]
    return or_note(shown, Table(shown, columns), NONE)


def other_tiles(others: pd.DataFrame) -> Table | Note:
    """Return, for each GEMM, the tile that would move least through L2, with a check if it was launched, too.

    ``others`` is ``analysis.traffic.other_tiles``.
    """
    best = others[others["l2_saved_pct"] >= WORTH_PCT].sort_values("l2_saved_pct", ascending=False)
    best = _in_order(best.drop_duplicates([column.key for column in _who(best)]))
    shown = best.assign(gb=best["l2_model_bytes"] / 1e9, counted_gb=best["counted_l2_bytes"].astype("Float64") / 1e9)
    predicted, here = "predicted", "launched in these runs"
    shown, tile = tiles.split(shown, "tile")
    shown, candidate = tiles.split(shown, "candidate")
    columns = [
        *_who(shown),
        *tile,
        *candidate,
        *heads("gb l2_saved_pct", group=predicted),
        *heads("counted_gb counted_us", group=here),
    ]
    none = f"No tile of the list would move {WORTH_PCT:.0f} % less, or no tile is known."
    return or_note(shown, Table(shown, columns), none)


def geometry(table: pd.DataFrame) -> Table | Note:
    """Return the launch geometry of every GEMM (``analysis.gemms.gemms``)."""
    shown, tile = tiles.split(table, "tile")
    columns = [
        *_who(table),
        *heads("name"),
        *tile,
        *heads("tile_source"),
        *_GRID,
        *heads("tiles_computed blocks_empty registers_per_thread smem_bytes blocks_per_sm"),
        *heads("limiter", label="no more for"),
        *heads("occupancy_achieved_pct waves working_waves last_wave_fill_pct rows_padded rows_useful"),
    ]
    return or_note(shown, Table(shown, columns), NONE)
