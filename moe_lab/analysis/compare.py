"""Two runs side by side: the stages of captures, or the cases that both benchmarks measured."""

import pandas as pd

from moe_lab.analysis.breakdown import UNATTRIBUTED, breakdown
from moe_lab.analysis.phases import stages
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

CASES = {
    "experts": ["model", "M", "format", "routing", "seed", "part", "mode", "backend"],
    "align": ["E", "topk", "tokens", "block_m", "routing", "seed", "mode", "algorithm"],
}


def captures(a: Launches, b: Launches, root: str | None = None) -> pd.DataFrame:
    """Return the stages of two captures side by side; ``root`` must match one range of each (default: their only root).

    Returns:
        Columns stage, time_a_ms, time_b_ms (median kernel sum of an instance of the root; NA where a run lacks the
        stage) and ratio (b over a); the last row, ``total``, is the root.

    Raises:
        UserError: the expression matches no range, or several with different names.
    """
    table = _stages(a, root).merge(_stages(b, root), on="stage", how="outer", suffixes=("_a_ms", "_b_ms"), sort=False)
    table = pd.concat([table[table["stage"] != "total"], table[table["stage"] == "total"]], ignore_index=True)
    return table.assign(ratio=table["time_b_ms"] / table["time_a_ms"])


def _stages(launches: Launches, root: str | None) -> pd.DataFrame:
    table = breakdown(launches, root, roles=False)
    roots = table[(table["depth"] == 0) & (table["path"] != UNATTRIBUTED)]
    if len(roots) != 1:
        some = ", ".join(roots["name"].head(3))
        said = f"{len(roots)} ranges ({some}, ...)" if some else "no range"
        raise UserError(f"A run to compare has {said} as roots; give root, an expression that matches one in both.")
    own = stages(table).rename(columns={"time_ms": "time"})[["stage", "time"]]
    total = pd.DataFrame({"stage": ["total"], "time": roots["kernel_sum_ms"].astype(float)})
    return pd.concat([own, total], ignore_index=True).astype({"time": "Float64"})


def benchmarks(a: pd.DataFrame, b: pd.DataFrame, bench: str) -> pd.DataFrame:
    """Return the cases that two benchmarks of one kind (``bench``) both measured, side by side.

    Returns:
        The columns of ``CASES``, time_a_us, time_b_us (medians) and ratio (b over a), in the order of ``a``.

    Raises:
        UserError: ``bench`` is another benchmark, or no case is in both.
    """
    if bench not in CASES:
        raise UserError(f"Runs of '{bench}' cannot be compared; give two captures or benchmarks of experts or align.")
    keys = CASES[bench]
    both = _timed(a, keys).merge(_timed(b, keys), on=keys, suffixes=("_a_us", "_b_us"))
    if both.empty:
        raise UserError(f"The two benchmarks share no case of {', '.join(keys)}; compare runs of the same sizes.")
    return both.assign(ratio=both["time_b_us"] / both["time_a_us"])


def _timed(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    own = rows[rows["median_us"].notna()].rename(columns={"median_us": "time"})
    # merge would pair the rows of a repeated case each with each.
    return own.astype({"time": "Float64"})[[*keys, "time"]].drop_duplicates(keys)
