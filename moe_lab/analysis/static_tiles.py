# SPDX-License-Identifier: Apache-2.0
"""Which tiles a tuning should time, by what they compiled to: no spills, and no other tile as good in everything."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from moe_lab.analysis import static
from moe_lab.spec import formats

CASE = ["arch", "gpu", "model", "format", "backend", "M", "part"]
CODE = ["static_registers", "static_vgprs", "static_agprs", "static_sgprs", "static_smem_bytes", "spills"]
NEEDED = ["tensor_unit", "constants", "num_warps", "loop_instructions", "error"]
# What tiles with the same rows are compared by; more of each is better.
BETTER = ["static_occupancy_pct", "tile_flop_per_byte", "loop_flop_per_instruction"]


def tiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every tile that was compiled, with whether it stays and why not.

    Args:
        rows: rows of ``moe-lab tune --static``.

    Returns:
        ``CASE``, tile, ``CODE`` (spills as in ``static.kernels``), ``BETTER``, error, why: empty for a tile that stays.
        A tile goes if it does not compile, if it spills, or if another one with as many rows is at least as good in all
        of ``BETTER``. tile_flop_per_byte is what a tile multiplies per byte of rows and weights that it loads,
        loop_flop_per_instruction a warp's share of a step of the tile per instruction of the inner loop, so what warps
        repeat of one another does not count.
    """
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *NEEDED])))  # a call that refuses has no code
    work = _numbers(rows, lambda row: static.step_flop(row) if row.tensor_unit else None)
    shown = rows.assign(
        spills=static.spills(rows),
        tile_flop_per_byte=_numbers(rows, flop_per_byte),
        loop_flop_per_instruction=work / rows["num_warps"] / rows["loop_instructions"],
    )
    shown = shown.reindex(columns=[*CASE, "tile", *CODE, *BETTER, "error"])
    shown["why"] = shown["error"].where(shown["error"].notna(), shown["spills"].map(_spilled))
    rows_of_a_tile = shown["tile"].str.partition("x")[0]
    for _, same in shown[shown["why"].eq("")].groupby([*CASE, rows_of_a_tile], dropna=False, sort=False):
        for index, better in _outdone(same).items():
            shown.loc[index, "why"] = f"{better} is as good or better in everything"
    return shown


def _numbers(rows: pd.DataFrame, of: Callable[[Any], float | None]) -> Any:
    known = rows.astype(object)
    return pd.array([of(row) for row in known.where(known.notna(), None).itertuples(index=False)], dtype="Float64")


def flop_per_byte(row: Any) -> float | None:
    """Return what a row's tile multiplies per byte that it loads; None if its sides are not known."""
    sides, format = static.tile(row), formats.get(row.format)
    if not {"BLOCK_M", "BLOCK_N"} <= sides.keys():
        return None
    m, n = sides["BLOCK_M"], sides["BLOCK_N"]
    return 2 * m * n / (m * format.activation_bits / 8 + n * format.weight_bits / 8)


def _spilled(registers: Any) -> str:
    return "" if pd.isna(registers) or not registers else f"spills {registers} registers"


def _outdone(same: pd.DataFrame) -> dict[Any, str]:
    """Return index -> a tile that is at least as good in everything, and of equals the first."""
    points = same[BETTER].astype("Float64").fillna(0.0).to_numpy(dtype=float)  # a loop may have no tensor work
    found = {}
    for i, index in enumerate(same.index):
        for j, tile in enumerate(same["tile"]):
            as_good = (points[j] >= points[i]).all()
            if i != j and as_good and ((points[j] > points[i]).any() or j < i):
                found[index] = tile
                break
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many tiles of ``tiles`` stay for each architecture, and how many go for what.

    Columns ``arch``, ``tiles``, ``kept``, ``fail``, ``spill``, ``outdone``.
    """
    spills = table["why"].str.startswith("spills")
    outdone = table["why"].str.endswith("in everything")
    kept, fail = table["why"].eq(""), table["error"].notna()
    flags = pd.DataFrame({"kept": kept, "fail": fail, "spill": spills & ~fail, "outdone": outdone & ~fail})
    counts = flags.groupby(table["arch"], sort=False).sum().reset_index()
    counts.insert(1, "tiles", counts[["kept", "fail", "spill", "outdone"]].sum(axis="columns"))
    return counts[["arch", "tiles", "kept", "fail", "spill", "outdone"]]
