"""Compiled code, from rows of ``moe-lab inspect``: a table a kernel, and what is amiss in which rows.

Rows have the columns of ``schema.of("static")``, and of ``rows`` those that say which call it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.spec import architectures

CALL = ["arch", "gpu", "model", "format", "backend", "algorithm", "stage", "kernel"]
CODE = [
    *("num_warps", "static_registers", "static_agprs", "static_sgprs", "static_smem_bytes", "stack_bytes", "spills"),
    *("static_occupancy_pct", "occupancy_limit", "tensor_unit", "loop_instructions", "loop_not_tensor_pct"),
    *("code_bytes", "error"),
]
WIDE_BYTES = 16  # that a thread loads at once where nothing is in the way
# What rules look at.
NEEDED = ("arch", "error", "tensor_unit", "vgpr_spills", "sgpr_spills", "local_accesses", "loop_loads", "blocks_by")
NARROW_PCT = 50.0  # of the bytes that the inner loop loads: scales and indices are less


def kernels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in ``CALL``, M and ``CODE``, those that differ in M alone joined: M is a text, ``1, 64``.

    ``spills`` are registers on AMD and instructions on local memory on NVIDIA, whose code does not say registers.
    """
    spills = _spills(rows)
    shown = rows.reindex(columns=[*CALL, "M", *CODE]).assign(spills=spills)
    same = [column for column in shown if column != "M"]
    joined = shown.groupby(same, dropna=False, sort=False)["M"].agg(
        lambda sizes: ", ".join(map(str, dict.fromkeys(sizes)))
    )
    return joined.reset_index()[[*CALL, "M", *CODE]]


def _spills(rows: pd.DataFrame) -> "pd.Series[Any]":
    known = rows.reindex(columns=["vgpr_spills", "sgpr_spills", "local_accesses"])
    on_amd = known["vgpr_spills"] + known["sgpr_spills"]
    return on_amd.fillna(known["local_accesses"])


def narrow_pct(loads: Any) -> float:
    """Return the share of bytes that come by loads narrower than 16 bytes; 0 without loads.

    Args:
        loads: (bytes of a load, count) of each width, as the columns ``loads`` and ``loop_loads`` have them.
    """
    of = [(int(width), count) for width, count in loads or ()]
    total = sum(width * count for width, count in of)
    narrow = sum(width * count for width, count in of if width < WIDE_BYTES)
    return 100 * narrow / total if total else 0.0


def smem_costs_half(row: Any) -> bool:
    """Return whether shared memory lets at most half of the blocks onto a multiprocessor that all else would."""
    blocks = dict(row.blocks_by or ())
    held = blocks.pop("shared memory", None)
    return held is not None and 2 * held <= min(blocks.values())


def lesser_unit(row: Any) -> bool:
    """Return whether matrices are multiplied by mma.sync on an architecture that has a wider unit of its own."""
    return row.tensor_unit == "mma.sync" and architectures.find(row.arch).tensor_unit != "mma.sync"


@dataclass(frozen=True)
class Rule:
    """What can be amiss in compiled code.

    Attributes:
        about: its subject, as a finding begins.
        fires: whether it is so in a row.
        shown: columns that show it, separated by spaces.
        problem: whether it costs time or fails, as a rule; else it may be meant.
    """

    about: str
    fires: Callable[[Any], bool]
    shown: str
    problem: bool


RULES = (
    Rule("Does not compile or launch", lambda row: row.error is not None, "error", True),
    Rule(
        "Spills",
        lambda row: any((row.vgpr_spills, row.sgpr_spills, row.local_accesses)),
        "static_registers static_sgprs stack_bytes vgpr_spills sgpr_spills local_accesses",
        True,
    ),
    Rule("mma.sync where the GPU has more", lesser_unit, "constants tensor_shape", False),
    Rule(
        "Narrow loads in the inner loop",
        lambda row: bool(row.tensor_unit) and narrow_pct(row.loop_loads) >= NARROW_PCT,
        "loop_loads",
        True,
    ),
    Rule(
        "Shared memory halves the occupancy",
        smem_costs_half,
        "static_smem_bytes static_occupancy_pct blocks_by",
        False,
    ),
)


def amiss(rows: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Return the rows in which a rule fires."""
    known = rows.reindex(columns=list(dict.fromkeys([*rows, *NEEDED]))).astype(object)
    return rows[[rule.fires(row) for row in known.where(known.notna(), None).itertuples(index=False)]]
