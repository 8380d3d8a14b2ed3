# SPDX-License-Identifier: Apache-2.0
"""Compiled code beside what Nsight Compute counted of the same launches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.spec import formats, ranges

LEAST_REGISTERS = 16  # the fewest per thread that Nsight Compute reports
LAUNCH = ["M", "call", "stage", "kernel", "grid_blocks", "block_threads"]
BESIDE = ["static_registers", "registers_per_thread", "static_smem_bytes", "smem_bytes"]
BESIDE += ["static_occupancy_pct", "occupancy_theoretical_pct"]
# Names in older captures -> today's of the same kernel.
RENAMED = {"persistent_gemm_kernel": "grouped_persistent_gemm_kernel", "grouped_gemm_kernel": "fused_moe_gemm_kernel"}


def beside(rows: pd.DataFrame, counted: pd.DataFrame, format: str | None = None) -> pd.DataFrame:
    """Return the compiled code beside what Nsight Compute found in the same launches.

    Args:
        rows: rows of ``moe-lab inspect`` for one GPU.
        counted: ``counters.counters_table`` of a capture of ``moe_lab.gpu experts`` or ``align``.
        format: of the capture; None for one of align, which does not depend on it.

    Returns:
        One row per launch that is in both, matched by M, call (backend or align algorithm; an align kernel also matches
        inside a call of a backend or of ``auto``), stage, kernel and grid; where a capture splits a launch, its stages
        may be some of the compiled one's. These, then static_registers (at least
        ``LEAST_REGISTERS``) and registers_per_thread, static_smem_bytes and smem_bytes, static_occupancy_pct and
        occupancy_theoretical_pct, and exact: whether all three agree. Launches that are in only one of them are
        left out.
    """
    roots = [ranges.parse_root(str(path).split("/")[0]) or {} for path in counted["path"]]
    found = counted.assign(
        kernel=counted["name"].replace(RENAMED),
        M=pd.array([int(root["M"]) if "M" in root else None for root in roots], dtype="Int64"),
        call=pd.array([root.get("backend", root.get("align")) for root in roots], dtype="string"),
        smem_bytes=counted["smem_static_bytes"] + counted["smem_dynamic_bytes"],
    )
    # Align is compiled in one format, for all.
    alike = rows["algorithm"].notna() | (rows["format"].eq(format) if format else True)
    known = rows[rows["error"].isna() & alike]
    calls = [known.assign(call=known["backend"].fillna(known["algorithm"]))]
    inside = [*dict.fromkeys(found["call"].dropna()), "auto"]
    calls += [known[known["stage"] == "align"].assign(call=name) for name in inside]
    both = _matched(pd.concat(calls).drop_duplicates(LAUNCH), found)
    both = both.assign(static_registers=both["static_registers"].clip(lower=LEAST_REGISTERS))
    pairs = [(BESIDE[i], BESIDE[i + 1]) for i in range(0, len(BESIDE), 2)]
    # ncu prints only two decimals.
    same = [(both[ours] - both[theirs]).abs() < 0.01 for ours, theirs in pairs]
    both = both.assign(exact=pd.concat(same, axis=1).all(axis=1))
    return both[[*LAUNCH, *BESIDE, "exact"]].sort_values(["M", "call", "grid_blocks"], ignore_index=True)


def format_of(manifest: Mapping[str, Any]) -> str | None:
    """Return the number format of a capture of experts; None for one of align."""
    workload = manifest.get("workload") or {}
    return None if workload.get("workload") == "align" else formats.stated(workload)


def _matched(known: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the launches that are in both: of the same stage, else of some of the stages of a compiled one."""
    exact = known.merge(found, on=LAUNCH, how="inner", suffixes=("", "_counted"))
    done = pd.MultiIndex.from_frame(exact[LAUNCH])
    rest, others = (part[~pd.MultiIndex.from_frame(part[LAUNCH]).isin(done)] for part in (found, known))
    others = others.rename(columns={"stage": "stages"})
    split = others.merge(rest, on=[key for key in LAUNCH if key != "stage"], how="inner", suffixes=("", "_counted"))
    pairs = zip(split["stage"], split["stages"], strict=True)
    part = [set(str(some).split("+")) < set(str(every).split("+")) for some, every in pairs]
    return pd.concat([exact, split[pd.Series(part, index=split.index, dtype=bool)]], ignore_index=True)


@dataclass(frozen=True)
class Check:
    """Compiled code beside a capture of counters on a GPU.

    Attributes:
        capture: its name.
        triton: its Triton release; None = it does not say.
        compiled: names of the runs for the same GPU by the same release.
        counted: number of launches in the capture.
        both: ``beside``, of all these runs.
        others: kernels of the capture that no run compiled.
    """

    capture: str
    triton: str | None
    compiled: Sequence[str]
    counted: int
    both: pd.DataFrame
    others: Sequence[str]


def check(
    capture: str,
    manifest: Mapping[str, Any],
    compiled: dict[str, pd.DataFrame],
    counted: pd.DataFrame,
) -> Check:
    """Return the launches of a capture that were also compiled.

    Args:
        capture: its name.
        manifest: its ``run.json``.
        compiled: run -> its rows, for the same GPU by the same release.
        counted: ``counters.counters_table`` of the capture.
    """
    empty = pd.DataFrame(columns=[*LAUNCH, *BESIDE, "exact"])
    found = [beside(rows, counted, format_of(manifest)) for rows in compiled.values()]
    both = pd.concat([part for part in found if len(part)] or [empty], ignore_index=True)
    others = sorted(set(counted["name"].replace(RENAMED)) - set(both["kernel"]))
    return Check(capture, (manifest.get("versions") or {}).get("triton"), [*compiled], len(counted), both, others)


def coverage(checks: Sequence[Check]) -> pd.DataFrame:
    """Return how many launches of each capture were compiled too, and how many agree exactly.

    Columns ``capture``, ``triton``, ``launches``, ``compiled``, ``agree``, ``others``.
    """
    return pd.DataFrame(
        [
            {
                "capture": one.capture,
                "triton": one.triton,
                "launches": one.counted,
                "compiled": len(one.both),
                "agree": int(one.both["exact"].sum()),
                "others": ", ".join(one.others),
            }
            for one in checks
        ],
        columns=["capture", "triton", "launches", "compiled", "agree", "others"],
    )
