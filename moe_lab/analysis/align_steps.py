# SPDX-License-Identifier: Apache-2.0
"""What the kernels of an align call do: count the pairs, cumsum the counts, place the pairs (or sort them).

Each align plugin states which kernel does what in ``INFO["steps"]``: part of a kernel's name -> step, or several steps
joined by ``+``. Steps for which the same call has a kernel of its own are removed from a joined one. An algorithm that
states nothing, because it calls others, is looked up in the steps of all plugins.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from moe_lab.analysis.align import Bench, at, is_floor
from moe_lab.analysis.counters import counters_table
from moe_lab.analysis.phases import rows_of
from moe_lab.runs import Run
from moe_lab.spec import plugins, ranges
from moe_lab.spec.launches import Launches

ORDER = ("count", "count+cumsum", "count+cumsum+place", "sort", "cumsum", "cumsum+place", "place", "other")
COLUMNS = ["algorithm", "tokens", "step", "us", "kernels", "pct"]


@dataclass(frozen=True)
class Capture:
    """A capture that a notebook uses if there is one.

    Attributes:
        run: the run; None if there is none.
        launches: its launches; None if there is no run.
        missing: a sentence on the missing run; empty if there is one.
    """

    run: Run | None
    launches: Launches | None
    missing: str = ""


def split(bench: Bench, capture: Capture, E: int, topk: int) -> tuple[pd.DataFrame, str]:
    """Return (the split of a call into steps, a sentence on its source): a capture if there is one, else the benchmark.

    A capture of another GPU than the benchmark's is not used. The table is that of ``from_capture``, with at most
    four sizes.
    """
    apart = _apart(bench, capture)
    if capture.launches is not None and capture.run is not None and not apart:
        table = from_capture(capture.launches, E, topk)
        if len(table):
            warm = (capture.run.manifest.get("workload") or {}).get("warm")
            state = "" if warm is None else f", L2 cache {'warm' if warm else 'cold'}"
            said = f"From the capture {capture.run.manifest['name']}: medians over eager calls{state}."
            return _some_sizes(table), said
    table = _some_sizes(from_bench(bench, E, topk))
    why = capture.missing or apart or f"The capture has no calls with {E} experts and topk {topk}."
    if table.empty:
        return table, f"{why} The benchmark did not read the kernels of such calls either."
    return table, f"{why} These are from the benchmark's own trace: one eager call per size, with warm caches."


def _apart(bench: Bench, capture: Capture) -> str:
    """Return a sentence if the capture is of another GPU than the benchmark; empty if not, or if one is not stated."""
    ours, theirs = ((one.manifest.get("gpu") or {}).get("name") if one else None for one in (bench.run, capture.run))
    if not ours or not theirs or ours == theirs or capture.run is None:
        return ""
    return f"The capture {capture.run.manifest['name']} is of {theirs}, the benchmark of {ours}, so it is not used."


def _some_sizes(table: pd.DataFrame) -> pd.DataFrame:
    sizes = sorted(set(table["tokens"]))
    # A page has room for four: both ends (small calls are all launch, large ones all data), and two between them.
    kept = sizes if len(sizes) <= 4 else [sizes[round(i * (len(sizes) - 1) / 3)] for i in range(4)]
    return table[table["tokens"].isin(kept)].reset_index(drop=True)


def counters(capture: Capture) -> pd.DataFrame:
    """Return the hardware counters of a capture of ``moe_lab.gpu align``, one row per kernel of each call.

    Returns:
        Columns algorithm, tokens, E, topk, step, name, grid_blocks, block_threads, registers_per_thread, smem_bytes
        (static + dynamic), duration_us, cycles_elapsed, active_sms, l1_hit_pct, l2_hit_pct, sectors_per_load_request,
        sectors_per_store_request, smem_bank_conflicts, dram_read_bytes, dram_write_bytes, stalls (the largest stall
        reasons), as in ``analysis.counters.counters_table``; ``attrs["notes"]`` too. Empty without a capture, or if
        the capture is of something else.
    """
    if capture.launches is None:
        return pd.DataFrame(columns=[*_CALL, *_COUNTERS])
    table = counters_table(capture.launches)
    fields = [ranges.parse_root(str(path).split("/")[0]) or {} for path in table["path"]]
    table["algorithm"] = [f.get("align") for f in fields]
    for column, field in (("tokens", "M"), ("E", "E"), ("topk", "topk")):
        table[column] = pd.array([int(f[field]) if f.get(field, "").isdecimal() else pd.NA for f in fields], "Int64")
    table = table[[f.get("phase") == "align" for f in fields]].copy()
    table["step"] = ""
    for (_, algorithm), call in table.groupby(["path", "algorithm"], sort=False):
        table.loc[call.index, "step"] = steps_of(str(algorithm), call["name"].tolist())
    table["smem_bytes"] = table["smem_static_bytes"] + table["smem_dynamic_bytes"]
    table["stalls"] = [_stalls(row) for row in table.to_dict("records")]
    return table[[*_CALL, *_COUNTERS]].reset_index(drop=True)


_CALL = ("algorithm", "tokens", "E", "topk", "step", "name")
_COUNTERS = (
    *("grid_blocks", "block_threads", "registers_per_thread", "smem_bytes", "duration_us", "cycles_elapsed"),
    *("active_sms", "l1_hit_pct", "l2_hit_pct", "sectors_per_load_request", "sectors_per_store_request"),
    *("smem_bank_conflicts", "dram_read_bytes", "dram_write_bytes", "stalls"),
)


def _stalls(row: Mapping[Hashable, Any]) -> str | None:
    """Return the largest stall reasons as text: ``long scoreboard 61 %, barrier 12 %``."""
    pairs = [(row.get(f"stall_{n}"), row.get(f"stall_{n}_pct")) for n in (1, 2, 3)]
    known = [
        f"{str(name).replace('_', ' ')} {share:.0f} %" for name, share in pairs if not (pd.isna(name) or pd.isna(share))
    ]
    return ", ".join(known) or None


@cache
def _stated(algorithm: str) -> Mapping[str, str]:
    steps: dict[str, str] = {}
    if algorithm in plugins.names("align"):
        steps = plugins.info("align", algorithm).get("steps") or {}
    if not steps:
        for name in plugins.names("align"):
            steps = {**(plugins.info("align", name).get("steps") or {}), **steps}
    # The longest first: a kernel's name may also contain the name of a simpler kernel.
    return dict(sorted(steps.items(), key=lambda item: -len(item[0])))


def steps_of(algorithm: str, kernels: Sequence[str]) -> list[str]:
    """Return the step of each kernel in one call of an align plugin; ``other`` if no plugin knows the kernel."""
    stated = _stated(algorithm)
    found = [next((step for part, step in stated.items() if part in kernel), "other") for kernel in kernels]
    # A kernel that can do several steps does only those for which the call has no kernel of its own.
    alone = {step for step in found if "+" not in step}
    return [
        "+".join([p for p in step.split("+") if p not in alone] or [step]) if "+" in step else step for step in found
    ]


def from_bench(bench: Bench, E: int, topk: int) -> pd.DataFrame:
    """Like ``from_capture``, from kernels that the benchmark itself traced: one eager call per size, warm caches."""
    rows = at(bench, E, topk, None)
    rows = rows[rows["kernels_warm_us"].notna() & ~is_floor(rows)]
    parts = [
        {"algorithm": row.algorithm, "tokens": row.tokens, "call": 0, "kernel": name, "us": us}
        for row in rows_of(rows)
        for name, us in row.kernels_warm_us
    ]
    return _split(pd.DataFrame(parts, columns=["algorithm", "tokens", "call", "kernel", "us"]))


def from_capture(launches: Launches, E: int, topk: int) -> pd.DataFrame:
    """Return the split of the calls that ``moe_lab.gpu align`` made under a profiler, of one E and topk.

    Returns:
        One row per algorithm, size and step: algorithm, tokens, step, us (time in that step's kernels, median over the
        calls), kernels (per call), pct (of the call's kernel time). Empty if no call has these sizes.
    """
    parts = launches.table[launches.table["range_id"].notna()]
    path = launches.ranges["path"].loc[parts["range_id"].astype(int)].str.split("/").str[0]
    fields = [ranges.parse_root(name) or {} for name in path]
    table = pd.DataFrame(
        {
            "algorithm": [f.get("align") for f in fields],
            "tokens": [int(f.get("M", -1)) for f in fields],
            "call": parts["range_id"].to_numpy(),
            "kernel": parts["name"].to_numpy(),
            "us": parts["duration_ns"].to_numpy(dtype=float) / 1e3,
        }
    )
    wanted = {"phase": "align", "E": str(E), "topk": str(topk)}
    return _split(table[[wanted.items() <= f.items() for f in fields]])


def _split(parts: pd.DataFrame) -> pd.DataFrame:
    """Sum the kernels of each call by step, then take the median over calls."""
    if parts.empty:
        return pd.DataFrame(columns=COLUMNS)
    calls = [
        call.assign(step=steps_of(str(algorithm), call["kernel"].tolist()))
        for (algorithm, _, _), call in parts.groupby(["algorithm", "tokens", "call"], sort=False)
    ]
    by = ["algorithm", "tokens", "step"]
    sums = pd.concat(calls).groupby([*by, "call"])["us"].agg(["sum", "count"]).reset_index()
    table = sums.groupby(by).agg(us=("sum", "median"), kernels=("count", "median")).reset_index()
    table["pct"] = 100 * table["us"] / table.groupby(["algorithm", "tokens"])["us"].transform("sum")
    place = {step: i for i, step in enumerate(ORDER)}
    table["order"] = [place.get(step, len(place)) for step in table["step"]]
    return table.sort_values(["tokens", "algorithm", "order"], ignore_index=True)[COLUMNS]
