# SPDX-License-Identifier: Apache-2.0
"""Bytes of an expert GEMM: the fewest possible, those of its tiles by a model, those counted, and those of other tiles.

The model. Between the SMs and L2: a row of A is read by each of the ceil(gemm_n / block_n) tiles along that row, and a
weight matrix B by each row tile of its expert (padding rows are masked and read nothing); C is written once. From DRAM:
B is read again for another group of ``group_m`` row tiles of the same expert only if what is read between the two (that
group's rows, and B) does not fit in the L2 cache. A row of A is read once per pair, because the experts of one token
are far apart, unless all of A fits beside the weights read between two of its pairs. Only half of the L2 counts,
because a GPU with two L2 partitions keeps a line in both.

Measured on an H200: the model predicts DRAM reads within 3 % (4 to 14 % too few at 64x256 and 128x256), reads through
L2 within 4 % at 64x64x32, within 10 % with tiles of 16 rows, and up to 21 % too many at 64x128 and 128x256, because
requests of neighbouring SMs for the same lines are merged before L2 (and some hit L1). In persistent kernels, whose
blocks run in step, more are merged: 15 to 35 % too many at 64x256 and 128x256, 88 % for w13 of matmul_ogs at 128x256.

In every function here ``table`` is ``analysis.gemms.gemms`` and ``row`` one of its rows, and l2_bytes the size
of the L2 cache (None = not known).
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from moe_lab.spec.problem import DTYPE_BYTES, MoEProblem, Part

# Configurations that published tuning files choose from, as (block_m, block_n, block_k, group_m).
CANDIDATES = (
    *((16, 32, 64, 1), (16, 64, 128, 1), (16, 128, 64, 1), (16, 256, 64, 1), (32, 64, 128, 1), (32, 128, 64, 1)),
    *((64, 64, 32, 8), (64, 128, 64, 8), (64, 256, 64, 8), (128, 128, 64, 8), (128, 256, 64, 8)),
)
USABLE = 0.5  # part of the L2 that counts, see above
Row = Mapping[Hashable, Any]


def model(row: Row, block_m: int, block_n: int, group_m: int, l2_bytes: float | None) -> dict[str, float] | None:
    """Return the bytes that a GEMM moves with given tiles, None if too little is known.

    The keys are l2_a_bytes, l2_b_bytes, c_bytes, l2_model_bytes (their sum), dram_read_model_bytes and
    dram_model_bytes (with C).

    Args:
        row: of ``analysis.gemms.gemms``: part, M, gemm_n, gemm_k, E, topk, experts_hit, rows_useful, rows_padded,
            rows_padded_by, element_bytes.
        block_m: rows of a tile.
        block_n: columns of a tile.
        group_m: number of row tiles that run column by column.
        l2_bytes: size of the L2 cache; None = not known, then it is taken as large enough.
    """
    needed = ("gemm_n", "gemm_k", "experts_hit", "rows_useful", "element_bytes", "topk", "M")
    padded = rows_padded(row, block_m)
    if padded is None or any(absent(row.get(k)) for k in needed):
        return None
    rows, hit, wide, deep = (int(row[k]) for k in ("rows_useful", "experts_hit", "gemm_n", "gemm_k"))
    size, tiles_m = int(row["element_bytes"]), math.ceil(padded / block_m)
    matrix, c = wide * deep * size, _written(row) * size
    a = rows * math.ceil(wide / block_n) * deep * size
    fits = math.inf if l2_bytes is None else USABLE * l2_bytes
    between = group_m * block_m * deep * size + matrix
    passes = 1 if between <= fits else max(1, math.ceil(tiles_m / max(1, hit) / group_m))
    weights, pairs = hit * matrix, rows * deep * size
    # The input of w13 is one row per token, shared by its topk pairs; that of w2 is one row per pair.
    unique = int(row["M"]) * deep * size if row.get("part") == "w13" else pairs
    apart = (weights + pairs) / max(1, int(row["topk"]))  # read between two pairs of a token, on average
    read = unique if apart + unique <= fits else pairs
    b = tiles_m * matrix
    return {
        "l2_a_bytes": a,
        "l2_b_bytes": b,
        "c_bytes": c,
        "l2_model_bytes": a + b + c,
        "dram_read_model_bytes": passes * weights + read,
        "dram_model_bytes": passes * weights + read + c,
    }


def of(row: Row, l2_bytes: float | None) -> dict[str, float] | None:
    """Return the ``model`` of a GEMM with its own tiles; None if they are not known."""
    if absent(row.get("block_m")) or absent(row.get("block_n")):
        return None
    group = 1 if absent(row.get("group_m")) else int(row["group_m"])
    return model(row, int(row["block_m"]), int(row["block_n"]), group, l2_bytes)


def rows_padded(row: Row, block_m: int) -> int | None:
    """Return the rows with each expert's padded to ``block_m``; if not stated, estimated as half a tile per expert."""
    by = row.get("rows_padded_by")
    if isinstance(by, Mapping) and str(block_m) in by:
        return int(by[str(block_m)])
    if not absent(row.get("rows_padded")) and row.get("block_m") == block_m:
        return int(row["rows_padded"])
    if absent(row.get("rows_useful")) or absent(row.get("experts_hit")):
        return None
    rows, hit = int(row["rows_useful"]), int(row["experts_hit"])
    # The last tile of an expert is half empty on average, and every expert hit has at least one tile.
    return max(rows + hit * (block_m - 1) // 2, hit * block_m)


def absent(value: Any) -> bool:
    """Return whether a value is None, NaN or NA."""
    return value is None or bool(pd.isna(value))


def minimum(row: Row) -> float | None:
    """Return the fewest possible bytes through DRAM (see ``MoEProblem.minimum_bytes``); None if not known."""
    sizes = [row.get(k) for k in ("M", "K", "N", "E", "topk", "experts_hit", "gemm_n", "rows_useful")]
    if any(absent(s) for s in sizes) or absent(row.get("format")):
        return None
    M, K, N, E, topk, hit, *_ = (int(s) for s in sizes if s is not None)
    part: Part = "w13" if row["part"] == "w13" else "w2"
    biases = not absent(row.get("biases")) and bool(row["biases"])
    problem = MoEProblem(M, K, N, E, topk, str(row["format"]), biases=biases)
    # A GEMM with the next stage fused into it writes less than on its own; the difference is subtracted.
    spared = M * topk * (2 * N if part == "w13" else K) - _written(row)
    return float(problem.minimum_bytes(hit, part) - spared * DTYPE_BYTES[problem.dtype])


def _written(row: Row) -> int:
    """Return the number of elements that a GEMM writes: [pairs, gemm_n] unless a later stage is fused into it."""
    known = row.get("out_elements")
    return int(row["rows_useful"]) * int(row["gemm_n"]) if absent(known) else int(known or 0)


def traffic(table: pd.DataFrame, l2_bytes: float | None = None) -> pd.DataFrame:
    """Return the bytes of every GEMM: the fewest possible, by the model for its tiles, and as counted.

    Returns:
        Columns series, M, stage, tile, duration_us, minimum_bytes, l2_a_bytes, l2_b_bytes, c_bytes,
        rows_again_bytes and weights_again_bytes (beyond the fewest), l2_model_bytes, dram_model_bytes (NA if the tile
        is not known), dram_bytes (counted, read and written), l2_counted_bytes (from the SMs; from all sides if only
        those were counted), l2_counted_of (``SMs`` or ``all sides``), dram_waste (counted / fewest; NA unless both
        reads and writes were counted), l2_per_minimum (bytes through L2, counted from the SMs or else by the model, /
        fewest), model_error_pct (of the model's L2 bytes against those counted from the SMs) and dram_error_pct (of its
        DRAM reads against those counted; not of writes, which may stay in L2).
    """
    rows = [_row(row, l2_bytes) for row in table.to_dict("records")]
    return pd.DataFrame(rows, columns=list(COLUMNS)).convert_dtypes()


COLUMNS = (
    *("series", "M", "stage", "tile", "duration_us", "minimum_bytes", "l2_a_bytes", "l2_b_bytes", "c_bytes"),
    *("rows_again_bytes", "weights_again_bytes", "l2_model_bytes", "dram_model_bytes", "dram_bytes"),
    *("l2_counted_bytes", "l2_counted_of", "dram_waste", "l2_per_minimum", "model_error_pct", "dram_error_pct"),
)


def _row(row: Row, l2_bytes: float | None) -> dict[str, Any]:
    out: dict[str, Any] = {k: row.get(k) for k in ("series", "M", "stage", "tile", "duration_us")}
    own = minimum(row)
    out |= of(row, l2_bytes) or {}
    if own is not None and "l2_b_bytes" in out:
        weights = int(row["experts_hit"]) * int(row["gemm_n"]) * int(row["gemm_k"]) * int(row["element_bytes"])
        again = out["l2_b_bytes"] - weights  # each row tile reads its expert's weights once
        out |= {"weights_again_bytes": again, "rows_again_bytes": out["l2_model_bytes"] - own - again}
    out |= {"minimum_bytes": own, "dram_bytes": total(row, "dram_read_bytes", "dram_write_bytes")}
    sides = {"l2_sm_bytes": "SMs", "l2_bytes": "all sides"}
    counted = next((k for k in sides if not absent(row.get(k))), None)
    out |= {"l2_counted_bytes": row[counted], "l2_counted_of": sides[counted]} if counted else {}
    through = row.get("l2_sm_bytes")
    through = out.get("l2_model_bytes") if absent(through) else through
    # Reads alone would look too good against a minimum that includes writes.
    written = not absent(row.get("dram_write_bytes"))
    out["dram_waste"] = _ratio(out["dram_bytes"], own) if written else None
    out["l2_per_minimum"] = _ratio(through, own)
    out["model_error_pct"] = _error(out.get("l2_model_bytes"), row.get("l2_sm_bytes"))
    out["dram_error_pct"] = _error(out.get("dram_read_model_bytes"), row.get("dram_read_bytes"))
    out.pop("dram_read_model_bytes", None)
    return out


def total(row: Row, *columns: str) -> float | None:
    """Return the sum of the columns that are known; None if none of them is."""
    known = [float(row[c]) for c in columns if not absent(row.get(c))]
    return sum(known) if known else None


def _error(said: Any, counted: Any) -> float | None:
    ratio = _ratio(said, counted)
    return None if ratio is None else 100 * (ratio - 1)


def _ratio(above: Any, below: Any) -> float | None:
    return None if absent(above) or absent(below) or not below else float(above) / float(below)


def other_tiles(table: pd.DataFrame, l2_bytes: float | None = None) -> pd.DataFrame:
    """Return the bytes that each of ``CANDIDATES`` would move instead, for every GEMM whose tile is known.

    Returns:
        Columns series, M, stage, tile, candidate, l2_model_bytes (of the candidate), l2_saved_pct (against the
        launch's own tile, by the same model), dram_model_bytes, rows_padded, counted_l2_bytes and counted_us (of the
        same GEMM launched with that tile in this table, which checks the prediction; NA if there is none).
    """
    rows, given = [], table.to_dict("records")
    launched: dict[tuple[Any, ...], Row] = {}
    for row in given:
        launched.setdefault(_gemm(row, row["block_m"], row["block_n"]), row)
    for row in given:
        own = of(row, l2_bytes)
        for m, n, k, g in CANDIDATES if own else ():
            moved = model(row, m, n, g, l2_bytes)
            if own is None or moved is None or (m, n) == (row["block_m"], row["block_n"]):
                continue
            one: dict[str, Any] = {c: row[c] for c in ("series", "M", "stage", "tile")}
            one |= {"candidate": f"{m}x{n}x{k}", "rows_padded": rows_padded(row, m)}
            one |= {key: moved[key] for key in ("l2_model_bytes", "dram_model_bytes")}
            one["l2_saved_pct"] = 100 * (1 - moved["l2_model_bytes"] / own["l2_model_bytes"])
            if found := launched.get(_gemm(row, m, n)):
                one |= {"counted_l2_bytes": found.get("l2_sm_bytes"), "counted_us": found["duration_us"]}
            rows.append(one)
    return pd.DataFrame(rows, columns=list(OTHER)).convert_dtypes()


OTHER = (
    *("series", "M", "stage", "tile", "candidate", "l2_model_bytes", "l2_saved_pct", "dram_model_bytes"),
    *("rows_padded", "counted_l2_bytes", "counted_us"),
)


def _gemm(row: Row, block_m: Any, block_n: Any) -> tuple[Any, ...]:
    return row["backend"], row["M"], row["stage"], block_m, block_n
