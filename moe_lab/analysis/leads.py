# SPDX-License-Identifier: Apache-2.0
"""How far our experts are ahead of those of other projects: one rule for the page, the README and the index.

A peer is a backend whose kernels are another project's, including PyTorch's grouped product: its plugin names a source
other than moe_lab. The lead at an M is over the quickest peer at that M, whichever it is.
"""

from functools import cache

import pandas as pd

from moe_lab.analysis.bench_rows import verdicts
from moe_lab.spec import plugins

OURS = "quickest of ours"
COLUMNS = ("M", "ours", "ours_us", "peer", "peer_us", "speedup", "verdict")


@cache
def own() -> frozenset[str]:
    """Return the experts backends whose kernels are ours."""
    return frozenset(n for n in plugins.names("experts") if plugins.info("experts", n).get("source") == "moe_lab")


def is_peer(backend: str, ours: str = "") -> bool:
    """Return whether a backend is another project's; a backend without a plugin is, unless it is ``ours``."""
    return backend not in (ours, OURS) and backend.partition("@")[0] not in own()  # name@version


def with_ours(rows: pd.DataFrame, backend: str) -> tuple[pd.DataFrame, str]:
    """Return (the rows, the backend in them that counts as ours).

    That is ``backend`` if it was measured. Otherwise rows named ``OURS`` are added: at each M those of our quickest
    backend, which is what ``auto`` would take. If none of ours was measured, it is the first backend.

    Args:
        rows: of one model, routing, part and mode.
        backend: the one that was asked for.
    """
    if rows.empty or (rows["backend"] == backend).any():
        return rows, backend
    mine = rows[[str(name) in own() for name in rows["backend"]]]
    if mine.empty:
        return rows, str(rows["backend"].iloc[0])
    best = mine.sort_values("median_us", kind="stable").drop_duplicates("M").assign(backend=OURS)
    return pd.concat([best, rows]).sort_values("M", kind="stable"), OURS


def leads(rows: pd.DataFrame, ours: str) -> pd.DataFrame:
    """Return one row per M at which ours and a peer were measured.

    Args:
        rows: of one model, routing, part and mode: columns M, backend, median_us, p20_us, p80_us.
        ours: a backend; if it was not measured, our quickest (``with_ours``).

    Returns:
        Columns M, ours and peer (names; the peer is the quickest of other projects at this M), ours_us, peer_us,
        speedup (peer / ours) and verdict (``bench_rows.verdicts``).
    """
    rows, name = with_ours(rows, ours)
    if rows.empty or name not in (ours, OURS):
        return pd.DataFrame(columns=list(COLUMNS))
    times = rows[["M", "backend", "median_us", "p20_us", "p80_us"]]
    mine = times[times["backend"] == name].drop_duplicates("M")
    peers = times[[is_peer(str(backend), name) for backend in times["backend"]]]
    best = peers.sort_values("median_us", kind="stable").drop_duplicates("M")
    both = mine.merge(best, on="M", suffixes=("_ours", "_peer")).sort_values("M", ignore_index=True)
    both = both.rename(columns={"median_us_ours": "ours_us", "median_us_peer": "peer_us"})
    both = both.astype({"ours_us": float, "peer_us": float})
    both = both.assign(ours=both["backend_ours"], peer=both["backend_peer"], speedup=both["peer_us"] / both["ours_us"])
    return both.assign(verdict=verdicts(both, "_ours", "_peer"))[list(COLUMNS)]


def rival(rows: pd.DataFrame, ours: str) -> str:
    """Return the peer that is the best at most Ms; empty if none was measured."""
    counts = leads(rows, ours)["peer"].value_counts()
    return str(counts.index[0]) if len(counts) else ""


def largest_excess(split: pd.DataFrame, quick: str, slow: str) -> tuple[str, float, float] | None:
    """Return the part of a call in which ``slow`` loses most against ``quick``.

    Stages that either of the two fuses form one part, so that each part holds the same work in both. ``split`` is
    ``analysis.sweep.stages`` of one M.

    Returns:
        (part such as ``w13+act``, microseconds of quick, microseconds of slow); None if one was not traced, if all
        stages form one part, or if slow does not lose in any.
    """
    stages = {name: split[split["backend"] == name] for name in (quick, slow)}
    if any(part.empty for part in stages.values()):
        return None
    # If one fuses w13+act and the other act+w2, only all three together are the same work in both.
    parts: list[set[str]] = []
    for label in split.loc[split["backend"].isin([quick, slow]), "stage"]:
        meets = [p for p in parts if p & set(str(label).split("+"))]
        parts = [*(p for p in parts if p not in meets), set(str(label).split("+")).union(*meets)]
    if len(parts) < 2:
        return None
    part = max(parts, key=lambda p: _of(stages[slow], p) - _of(stages[quick], p))
    fast, late = _of(stages[quick], part), _of(stages[slow], part)
    order = [stage for label in stages[slow]["stage"] for stage in str(label).split("+") if stage in part]
    return ("+".join(dict.fromkeys(order)), fast, late) if late > fast else None


def _of(rows: pd.DataFrame, part: set[str]) -> float:
    return float(rows.loc[[bool(part & set(str(label).split("+"))) for label in rows["stage"]], "us"].sum())
