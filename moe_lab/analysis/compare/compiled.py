# SPDX-License-Identifier: Apache-2.0
"""Two runs of ``moe-lab inspect``: which kernels gained registers, spills, instructions, and on which architecture."""

from typing import Any

import pandas as pd

from moe_lab.analysis.compare.judge import ONLY
from moe_lab.analysis.static import CALL, spills

BENCH = "inspect"
LAUNCH = ("stage", "kernel", "launch")  # which launch of a call
KEYS = [*CALL, "M", "launch"]
# Measure -> whether more of it is worse; stack_bytes and spills of a kernel that had none are a regression at any size.
MEASURES = {
    "spills": True,
    "stack_bytes": True,
    "static_registers": True,
    "static_smem_bytes": True,
    "static_instructions": True,
    "loop_instructions": True,
    "static_occupancy_pct": False,
}
FACTS = [
    "version",
    "compiler",
    "constants",
    "num_warps",
    "num_stages",
    "grid_blocks",
    "tensor_unit",
    "occupancy_limit",
    "error",
]


def cases(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per launch: ``KEYS``, ``MEASURES`` and ``FACTS``; NA where not known."""
    found = rows.assign(spills=spills(rows)).reindex(columns=[*KEYS, *MEASURES, *FACTS])
    found = found.astype(dict.fromkeys(MEASURES, "Float64"))
    return found.drop_duplicates(KEYS).reset_index(drop=True)


def measures(both: pd.DataFrame, keys: list[str], threshold_pct: float) -> pd.DataFrame:
    """Return what changed of each launch, one row per measure that did.

    Args:
        both: ``cases`` of two runs, ``judge.beside`` each other.
        keys: columns that name a launch.
        threshold_pct: changes up to it are left out, except the first spill of a kernel.

    Returns:
        ``keys``, measure, value_a, value_b, ratio, verdict (``worse``, ``better``, or as in ``judge.Comparison``), why.
    """
    call = [key for key in keys if key not in LAUNCH]
    # A call that refuses has one row without a launch, so it is beside none of the launches that it had.
    gone = both.loc[both["there"].eq(ONLY[0]) & both["error_a"].isna(), call]
    launched = set(gone.itertuples(index=False, name=None))
    rows = [
        {key: case[key] for key in keys} | row
        for case in both.to_dict("records")
        for row in _of_case(case, threshold_pct, tuple(case[key] for key in call) in launched)
    ]
    return pd.DataFrame(rows, columns=[*keys, "measure", "value_a", "value_b", "ratio", "verdict", "why"])


def _of_case(case: dict[Any, Any], threshold_pct: float, launched: bool) -> list[dict[str, Any]]:
    if case["there"] == ONLY[1] and launched and not pd.isna(case["error_b"]):
        return [{"measure": "compiles", "verdict": "worse", "why": case["error_b"]}]
    if case["there"] != "both":
        return [{"verdict": case["there"]}]
    named = {"why": "; ".join(_facts(case))}
    failed = [not pd.isna(case[f"error_{side}"]) for side in ("a", "b")]
    if any(failed):
        if all(failed):
            return []
        verdict = "worse" if failed[1] else "better"
        said = str(case["error_b" if failed[1] else "error_a"])
        return [named | {"measure": "compiles", "verdict": verdict, "why": said}]
    out = []
    for measure, more_is_worse in MEASURES.items():
        a, b = case[f"{measure}_a"], case[f"{measure}_b"]
        if pd.isna(a) or pd.isna(b) or abs(b - a) <= threshold_pct / 100 * a:
            continue
        verdict = "worse" if (b > a) == more_is_worse else "better"
        values = {"value_a": a, "value_b": b, "ratio": b / a if a else None}
        out.append(named | {"measure": measure, "verdict": verdict} | values)
    return out


def _facts(case: dict[Any, Any]) -> list[str]:
    """Return what else changed: constants (the tile among them), warps, pipeline, grid."""
    said = []
    for fact in FACTS[:-1]:
        a, b = case[f"{fact}_a"], case[f"{fact}_b"]
        if pd.isna(a) or pd.isna(b) or a == b:
            continue
        if fact == "compiler" and str(a).startswith("Triton ") and str(b).startswith("Triton "):
            continue  # its release is one of the versions of the runs
        if fact == "constants":
            said.append(_constants(str(a), str(b)))
        else:
            said.append(f"{fact} {a} → {b}")
    return said


def _constants(a: str, b: str) -> str:
    """Return the constants that differ: ``BLOCK_N 64 → 128``."""
    one, other = (dict(pair.split("=", 1) for pair in text.split() if "=" in pair) for text in (a, b))
    apart = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(f"{name} {one.get(name, 'none')} → {other.get(name, 'none')}" for name in apart)
