"""Tables of the notebook of kernel counters: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.pages.rocprof_compute.tables import glossary
from moe_lab.pages.show.notes import Note, or_note, provenance, roofs
from moe_lab.pages.show.tables import Column, Table
from moe_lab.spec import published

__all__ = [
    "ceilings",
    "geometry",
    "glossary",
    "kernels",
    "other_tiles",
    "provenance",
    "published_counters",
    "roofs",
    "traffic",
]

WORTH_PCT = 10.0  # less than this is within the error of the model
NONE = "Nothing to show: no run with the kernels of w13 or w2 was read."
NAMES = {"dram": "DRAM", "l2": "L2", "tensor": "tensor"}
_WHO = [Column("series", "backend"), Column("M", "M", "tokens", 0), Column("stage", "stage")]


def _who(frame: pd.DataFrame) -> list[Column]:
    """Return the columns that name a GEMM; the GPU is one of them where a table holds several."""
    return [*_gpu(frame), *_WHO]


def _gpu(frame: pd.DataFrame) -> list[Column]:
    return [Column("gpu", "GPU")] if "gpu" in frame else []


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by GPU, as they came, then by GEMM, M and series."""
    by = ["part" if "part" in frame else "stage", "M", "series"]
    if "gpu" not in frame:
        return frame.sort_values(by)
    return frame.assign(order=pd.factorize(frame["gpu"])[0]).sort_values(["order", *by])


def kernels(table: pd.DataFrame, limits: pd.DataFrame) -> Table | Note:
    """Return time, launch, throughput and traffic of every GEMM, with what limits it.

    Args:
        table: ``analysis.gemms.gemms``, with a column gpu where it has rows of several; so for every table here.
        limits: ``analysis.limits.limits`` of the same rows.
    """
    if table.empty:
        return Note(NONE)
    own = ["limiter", "limiter_pct", "dram_pct", "on_chip_pct", "compute_pct", "l2_pct"]
    shown = table.drop(columns="limiter", errors="ignore").assign(**{c: limits[c].to_numpy() for c in own})
    for column in ("dram_read_bytes", "l2_sm_bytes"):
        shown[column.replace("_bytes", "_gb")] = shown[column].astype("Float64") / 1e9
    busy, counted = "share by which that is decided", "of the theoretical peak, by ncu"
    columns = [
        *_who(shown),
        Column("limiter", "limited by"),
        Column("dram_pct", "DRAM", "%", 0, busy, most=100.0),
        Column("on_chip_pct", "on chip", "%", 0, busy, most=100.0),
        Column("compute_pct", "compute", "%", 0, busy, most=100.0),
        Column("duration_us", "time", "µs", 1),
        *([Column("timeline_us", "time", "µs, timeline", 1)] if "timeline_us" in table else []),
        Column("grid_blocks", "grid", "blocks", 0),
        Column("block_threads", "block", "threads", 0),
        Column("sm_throughput_pct", "compute", "%", 0, counted, 100.0),
        Column("mem_throughput_pct", "memory", "%", 0, counted, 100.0),
        Column("dram_throughput_pct", "DRAM", "%", 0, counted),
        Column("tensor_pipe_pct", "tensor", "%", 0, counted),
        Column("dram_read_gb", "DRAM read", "GB", 3),
        Column("l2_sm_gb", "L2 to SMs", "GB", 3),
        Column("l2_pct", "L2 to SMs", "% of its roof", 0, most=100.0),
        Column("l2_hit_pct", "L2 hits", "%", 0),
        *([Column("other_us", "others", "µs in the stage", 1)] if (table["other_us"] > 0).any() else []),
    ]
    return Table(_in_order(shown), columns)


def published_counters() -> Table:
    """Return what was published for an L40, marked as others' figures."""
    source = published.L40_COUNTERS
    columns = [
        Column("backend", "backend", theirs=True),
        Column("M", "M", "tokens", 0, theirs=True),
        Column("stage", "stage", theirs=True),
        Column("duration_us", "time", "µs", 0, theirs=True),
        Column("grid_blocks", "grid", "blocks", 0, theirs=True),
        Column("block_threads", "block", "threads", 0, theirs=True),
        Column("sm_throughput_pct", "compute", "% of its peak", 0, bar=100.0, theirs=True),
        Column("mem_throughput_pct", "memory", "% of its peak", 0, bar=100.0, theirs=True),
    ]
    return Table(published.w13_counters(), columns, f"{source.label}, not measured here: {source.setup}")


def ceilings(costs: pd.DataFrame, limits: pd.DataFrame) -> Table | Note:
    """Return the time that each roof alone would cost, what is lost beyond the highest, and what limits the kernel.

    Args:
        costs: ``analysis.roofline.ceilings``.
        limits: ``analysis.limits.limits``: of the same kernels, and more where one has no time.
    """
    alone = "time that this roof alone asks for"
    keys = [column.key for column in _who(costs)]
    shown = costs.merge(limits[[*keys, "limiter"]].drop_duplicates(keys), on=keys, how="left")
    columns = [
        *_who(shown),
        Column("limiter", "limited by"),
        Column("duration_us", "time", "µs", 1),
        Column("dram_us", "DRAM", "µs", 1, alone),
        Column("l2_us", "L2", "µs", 1, alone),
        Column("tensor_us", "tensor", "µs", 1, alone),
        Column("lost_us", "lost", "µs beyond the highest", 1),
        Column("pct_of_floor", "reached", "% of the highest", 0, bar=100.0, most=100.0),
        Column("dram_bytes_from", "DRAM bytes"),
        Column("l2_bytes_from", "L2 bytes"),
        Column("flop_from", "FLOPs"),
    ]
    return or_note(shown, Table(shown, columns), NONE)


def traffic(moved: pd.DataFrame) -> Table | Note:
    """Return the fewest bytes, those of the model and those that were counted.

    Args:
        moved: ``analysis.traffic.traffic``.
    """
    sizes = [c for c in moved.columns if str(c).endswith("_bytes")]
    shown = moved.assign(**{c: moved[c].astype("Float64") / 1e9 for c in sizes})
    counted = "counted"
    model = "by the model, through L2"
    columns = [
        *_who(shown),
        Column("tile", "tile"),
        Column("minimum_bytes", "fewest", "GB", 3),
        Column("l2_a_bytes", "rows", "GB", 3, model),
        Column("l2_b_bytes", "weights", "GB", 3, model),
        Column("l2_model_bytes", "all", "GB", 3, model),
        Column("l2_counted_bytes", "L2", "GB", 3, counted),
        Column("l2_counted_of", "of", group=counted),
        Column("dram_bytes", "DRAM", "GB", 3, counted),
        Column("dram_waste", "DRAM", "times the fewest", 2),
        Column("l2_per_minimum", "L2", "times the fewest", 1),
        Column("model_error_pct", "L2", "% off", 1, "model"),
        Column("dram_error_pct", "DRAM read", "% off", 1, "model"),
    ]
    return or_note(shown, Table(shown, columns), NONE)


def other_tiles(others: pd.DataFrame) -> Table | Note:
    """Return, for each GEMM, the tile that would move least through L2, with the check where it was launched too.

    Args:
        others: ``analysis.traffic.other_tiles``.
    """
    best = others[others["l2_saved_pct"] >= WORTH_PCT].sort_values("l2_saved_pct", ascending=False)
    best = _in_order(best.drop_duplicates([column.key for column in _who(best)]))
    shown = best.assign(gb=best["l2_model_bytes"] / 1e9, counted_gb=best["counted_l2_bytes"].astype("Float64") / 1e9)
    predicted, here = "predicted", "launched in these runs"
    columns = [
        *_who(shown),
        Column("tile", "tile"),
        Column("candidate", "instead"),
        Column("gb", "through L2", "GB", 3, predicted),
        Column("l2_saved_pct", "less", "%", 0, predicted),
        Column("counted_gb", "through L2", "GB", 3, here),
        Column("counted_us", "time", "µs", 1, here),
    ]
    none = f"No tile of the list would move {WORTH_PCT:.0f} % less, or no tile is known."
    return or_note(shown, Table(shown, columns), none)


def geometry(table: pd.DataFrame) -> Table | Note:
    """Return the launch geometry of every GEMM.

    Args:
        table: ``analysis.gemms.gemms``.
    """
    columns = [
        *_who(table),
        Column("name", "kernel", wrap=True),
        Column("tile", "tile"),
        Column("tile_source", "told by"),
        Column("grid_blocks", "grid", "blocks", 0),
        Column("tiles_computed", "tiles", "with rows", 0),
        Column("blocks_empty", "empty", "blocks", 0),
        Column("registers_per_thread", "registers", "per thread", 0),
        Column("smem_bytes", "shared memory", "bytes a block", 0),
        Column("blocks_per_sm", "blocks", "per SM", 0),
        Column("limiter", "no more for"),
        Column("occupancy_achieved_pct", "occupancy", "% achieved", 0),
        Column("waves", "waves", "launched", 1),
        Column("working_waves", "waves", "with rows", 1),
        Column("last_wave_fill_pct", "last wave", "% full", 0),
        Column("rows_padded", "rows", "with padding", 0),
        Column("rows_useful", "rows", "useful", 0),
    ]
    return or_note(table, Table(table, columns), NONE)
