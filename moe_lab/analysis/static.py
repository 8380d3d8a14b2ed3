# SPDX-License-Identifier: Apache-2.0
"""Compiled code, from rows of ``moe-lab inspect``: a table of kernels, and what is wrong in which rows.

Rows have the columns of ``schema.of("static")`` and those columns of ``rows`` that identify the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.spec import architectures
from moe_lab.spec.problem import MoEProblem

CALL = ["arch", "gpu", "model", "format", "backend", "algorithm", "stage", "kernel"]
CODE = [
    *("num_warps", "static_registers", "static_agprs", "static_sgprs", "static_smem_bytes", "stack_bytes", "spills"),
    *("static_occupancy_pct", "occupancy_limit", "tensor_unit", "loop_instructions", "loop_not_tensor_pct"),
    *("code_bytes", "error"),
]
WIDE_BYTES = 16  # the widest load of a thread
# Columns that the rules read.
NEEDED = ["arch", "error", "tensor_unit", "vgpr_spills", "sgpr_spills", "local_accesses"]
NEEDED += ["loop_tensor_flop", "loop_mix", "loop_loads", "blocks_by", "mix", "constants", "model", "M"]
SWAPPED = {"SWAP=1", "SWAP_AB=1", "swap_ab=1", "SWAP_XW=1"}  # constants by which tokens are a tile's columns
BOX = 256  # most elements on a side of what TMA copies at once
NARROW_PCT = 50.0  # of the bytes loaded in the inner loop; narrow loads of scales and indices are fewer


def kernels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``CALL``, M and ``CODE`` of the rows; rows that differ only in M are joined, and M is a text: ``1, 64``.

    ``spills`` counts registers on AMD, and local memory instructions on NVIDIA, whose code does not state registers.
    """
    found = spills(rows)
    shown = rows.reindex(columns=[*CALL, "M", *CODE]).assign(spills=found)
    same = [column for column in shown if column != "M"]
    joined = shown.groupby(same, dropna=False, sort=False)["M"].agg(
        lambda sizes: ", ".join(map(str, dict.fromkeys(sizes)))
    )
    return joined.reset_index()[[*CALL, "M", *CODE]]


def spills(rows: pd.DataFrame) -> "pd.Series[Any]":
    """Return how much each row spills, as ``kernels`` counts it; NA where its listing does not say."""
    known = rows.reindex(columns=["vgpr_spills", "sgpr_spills", "local_accesses"])
    known = known.astype("Int64")
    return (known["vgpr_spills"] + known["sgpr_spills"]).fillna(known["local_accesses"])


def narrow_pct(loads: Any) -> float:
    """Return the share of bytes that are loaded by loads narrower than 16 bytes; 0 if there are no loads.

    Args:
        loads: (bytes per load, count) for each width, as in the columns ``loads`` and ``loop_loads``.
    """
    of = [(int(width), count) for width, count in loads or ()]
    total = sum(width * count for width, count in of)
    narrow = sum(width * count for width, count in of if width < WIDE_BYTES)
    return 100 * narrow / total if total else 0.0


def starved(row: Any) -> bool:
    """Return whether most bytes for the tensor unit come by narrow loads; never with TMA, whose bytes are not known."""
    return bool(row.tensor_unit) and "TMA" not in dict(row.loop_mix or ()) and narrow_pct(row.loop_loads) >= NARROW_PCT


def smem_costs_half(row: Any) -> bool:
    """Return whether shared memory allows at most half as many blocks per SM as everything else would."""
    blocks = dict(row.blocks_by or ())
    held = blocks.pop("shared memory", None)
    return held is not None and 2 * held <= min(blocks.values())


def lesser_unit(row: Any) -> bool:
    """Return whether the kernel multiplies with mma.sync on an architecture that has a wider unit."""
    return row.tensor_unit == "mma.sync" and architectures.find(row.arch).tensor_unit != "mma.sync"


def tile(row: Any) -> dict[str, int]:
    """Return the sides of the tile that a row's kernel was compiled for: ``{"BLOCK_M": 64, ...}``, empty if none."""
    pairs = (pair.partition("=") for pair in str(row.constants or "").split())
    sides = ((name.replace("BLOCK_SIZE_", "BLOCK_"), value) for name, _, value in pairs)  # so vLLM and SGLang name them
    return {name: int(value) for name, value in sides if name.startswith("BLOCK_") and value.isdigit()}


def step_flop(row: Any) -> int | None:
    """Return what a step of a row's tile multiplies; None if its sides are not known."""
    sides = tile(row)
    known = {"BLOCK_M", "BLOCK_N", "BLOCK_K"} <= sides.keys()
    return 2 * sides["BLOCK_M"] * sides["BLOCK_N"] * sides["BLOCK_K"] if known else None


def repeats(row: Any) -> bool:
    """Return whether AMD's tensor unit does more in an iteration than a step of the tile: warps then do the same."""
    step = step_flop(row)
    return row.tensor_unit == "mfma" and step is not None and (row.loop_tensor_flop or 0) > step


def copies_by_threads(row: Any) -> bool:
    """Return whether threads copy whole tiles for the tensor unit that TMA could: contiguous, within a box of TMA."""
    sides = tile(row)
    could = row.tensor_unit and architectures.find(row.arch).tma and {"BLOCK_N", "BLOCK_K"} <= sides.keys()
    fits = could and max(sides["BLOCK_N"], sides["BLOCK_K"]) <= BOX and bool(row.loop_loads)
    return bool(fits) and "TMA" not in dict(row.mix or ()) and narrow_pct(row.loop_loads) < NARROW_PCT


def converts(row: Any) -> bool:
    """Return whether the inner loop has as many conversions as tensor instructions, or more."""
    mix = dict(row.loop_mix or ())
    return bool(mix.get(row.tensor_unit)) and mix.get("conversion", 0) >= mix[row.tensor_unit]


def few_rows(row: Any) -> bool:
    """Return whether a tile has fewer rows than the tensor unit takes at full rate, though the experts have as many."""
    sides, card = tile(row), architectures.find(row.arch)
    if row.tensor_unit != card.tensor_unit or "BLOCK_M" not in sides:
        return False
    problem = MoEProblem.preset(row.model, int(row.M))
    rows = sides["BLOCK_N"] if SWAPPED & set(row.constants.split()) else sides["BLOCK_M"]
    return rows < card.tensor_rows <= problem.rows_useful / problem.E


@dataclass(frozen=True)
class Rule:
    """What can be wrong in compiled code.

    Attributes:
        about: its name, with which a finding begins.
        fires: whether it holds for a row.
        shown: columns that show it, separated by spaces.
        problem: whether it usually costs time or fails; otherwise it may be intended.
        lines: column of the lines of the source that it concerns; empty if there are none.
        change: what to change because of it; empty if nothing follows.
    """

    about: str
    fires: Callable[[Any], bool]
    shown: str
    problem: bool
    lines: str = ""
    change: str = ""


RULES = (
    Rule("Does not compile or launch", lambda row: row.error is not None, "error", True),
    Rule(
        "Spills",
        lambda row: any((row.vgpr_spills, row.sgpr_spills, row.local_accesses)),
        "static_registers static_sgprs stack_bytes vgpr_spills sgpr_spills local_accesses",
        True,
        "spill_lines",
        "where registers spill: smaller tiles, more warps a block, or fewer values that live across the loop",
    ),
    Rule(
        "mma.sync where the GPU has more",
        lesser_unit,
        "constants tensor_shape",
        False,
        "tensor_lines",
        "where tiles are small on Hopper and Blackwell: swapped operands, or more rows a tile, for the wider unit",
    ),
    Rule(
        "Warps repeat each other's products",
        repeats,
        "constants num_warps tensor_shape loop_tensor_flop",
        True,
        "tensor_lines",
        "where warps do the same on AMD: fewer warps, a smaller matrix instruction, or more rows or columns a tile",
    ),
    Rule(
        "Narrow loads in the inner loop",
        starved,
        "loop_loads",
        True,
        "narrow_lines",
        "where loads are narrow: rows that are contiguous and aligned to 16 bytes, and are known to be",
    ),
    Rule(
        "Shared memory halves the occupancy",
        smem_costs_half,
        "static_smem_bytes static_occupancy_pct blocks_by",
        False,
        "load_lines",
        "where shared memory limits the occupancy: fewer stages, or a smaller block_k",
    ),
    Rule(
        "No TMA where the tile allows it",
        copies_by_threads,
        "constants loop_loads",
        False,
        "load_lines",
        "where threads copy tiles on Hopper and Blackwell: a tensor descriptor for the weights",
    ),
    Rule(
        "Converted operands in the inner loop",
        converts,
        "loop_mix",
        False,
        "conversion_lines",
        "where operands are converted in the loop: a format that the tensor unit takes, or conversion before the loop",
    ),
    Rule(
        "Fewer rows than the tensor unit takes",
        few_rows,
        "constants tensor_shape",
        False,
        "tensor_lines",
        "where experts get many rows on Blackwell: tiles of as many rows as the tensor unit takes",
    ),
)


def amiss(rows: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Return the rows in which a rule fires."""
    known = rows.reindex(columns=list(dict.fromkeys([*rows, *NEEDED]))).astype(object)
    fires = [rule.fires(row) for row in known.where(known.notna(), None).itertuples(index=False)]
    return rows[pd.Series(fires, index=rows.index, dtype=bool)]
