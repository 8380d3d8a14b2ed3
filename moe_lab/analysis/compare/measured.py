# SPDX-License-Identifier: Apache-2.0
"""A benchmark as cases to compare: the median of every case, and what its rows keep of the spread."""

import re
from typing import Any

import pandas as pd

from moe_lab.spec.configs import choose
from moe_lab.spec.errors import UserError

CASES = {
    "experts": ["model", "M", "format", "routing", "seed", "part", "mode", "backend"],
    "align": ["E", "topk", "tokens", "block_m", "routing", "seed", "mode", "algorithm"],
    "tune": ["model", "M", "format", "routing", "seed", "backend"],
    "ep": ["model", "M", "format", "routing", "seed", "ranks", "backend", "part", "mode", "comm"],
}
SIZES = ("model", "E", "topk", "tokens", "M")  # of the problem: cases of other sizes are never put side by side
SIZE = {"experts": "M", "align": "tokens", "tune": "M", "ep": "M"}
WHO = {"experts": "backend", "align": "algorithm", "tune": "backend", "ep": "comm"}
FACTS = ["version", "tile", "stage", "rows_padded", "workspace_bytes", "minimum_bytes", "launches", "error"]
CLOCKS = ["sm_mhz", "memory_mhz"]
# A release in a backend's name is what may differ between two runs: ``vllm_triton@0.15.0``.
_RELEASE = re.compile(r"@.*$")


def cases(rows: pd.DataFrame, bench: str) -> pd.DataFrame:
    """Return one row per case of a benchmark.

    Args:
        rows: of the run.
        bench: which benchmark; one of ``CASES``. Of a tuning the cases are the calls with the tiles that it chose.

    Returns:
        The columns of ``CASES``, time_us (median), low_us and high_us (a fifth of the repetitions is quicker or
        slower), ``FACTS``, ``CLOCKS`` and kernels (stage|kernel, µs, of one eager call); NA where not known.

    Raises:
        UserError: ``bench`` is another benchmark.
    """
    if bench not in CASES:
        raise UserError(f"Runs of '{bench}' cannot be compared; choose from {', '.join(CASES)}.")
    own = _chosen(rows) if bench == "tune" else rows
    pairs = next((c for c in ("kernels_us", "kernels_warm_us") if c in own), None)
    named = {"median_us": "time_us", "p20_us": "low_us", "p80_us": "high_us"} | ({pairs: "kernels"} if pairs else {})
    wanted = [*CASES[bench], "time_us", "low_us", "high_us", *FACTS, *CLOCKS, "kernels"]
    found = own.rename(columns=named).reindex(columns=wanted)
    found = found[found["time_us"].notna() | found["error"].notna()]
    # A repeated case would be paired with each of its repeats.
    kept = found.drop_duplicates(CASES[bench])
    return kept.astype(dict.fromkeys(["time_us", "low_us", "high_us"], "Float64")).reset_index(drop=True)


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the quickest finalist of each M, with its tiles as a text."""
    known = choose.records(rows)
    best = [choose.finals(known, point.M)[0] for point in choose.points(known)]
    tiles = [f"w13 {row['w13']}, w2 {row['w2']}" for row in best]
    return pd.DataFrame(best, columns=list(rows)).assign(tile=tiles)


def same_releases(table: pd.DataFrame, other: pd.DataFrame, who: str) -> pd.DataFrame:
    """Return a table in which a backend that names a release has a plain name, unless the other run has that name."""
    there = set(other[who])
    plain = [name if name in there else _RELEASE.sub("", str(name)) for name in table[who]]
    unique = len(set(plain)) == table[who].nunique()
    return table.assign(**{who: plain}) if unique else table


def by_kernel(table: pd.DataFrame, keys: list[str], level: str) -> pd.DataFrame:
    """Return the kernels of each case's profiled call, or their sums by stage: ``keys``, stage, kernel, time_us.

    Raises:
        UserError: no row has kernels.
    """
    out: list[dict[str, Any]] = []
    for row in table[table["kernels"].map(lambda found: isinstance(found, list) and bool(found))].to_dict("records"):
        for name, us in row["kernels"]:
            stage, _, kernel = name.rpartition("|")
            named = {"stage": stage or "other"} | ({"kernel": kernel} if level == "kernel" else {})
            out.append({key: row[key] for key in keys} | named | {"time_us": us})
    if not out:
        raise UserError("The rows hold no kernels of profiled calls; compare without --by stage or kernel.")
    frame = pd.DataFrame(out)
    own = [c for c in frame if c != "time_us"]
    return frame.groupby(own, dropna=False, sort=False)["time_us"].sum().astype("Float64").reset_index()
