# SPDX-License-Identifier: Apache-2.0
"""Aligned rows of two runs, and the verdict on each: slower, quicker, even, or not clear."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.compare import context, spread
from moe_lab.analysis.sweep import geometric_mean

THRESHOLD_PCT = 5.0
WORSE, BETTER = ("slower", "fails", "worse"), ("quicker", "mended", "better")
ONLY = ("only in A", "only in B")
TIMES = ["time_a_us", "time_b_us", "change_us", "ratio", "ratio_low", "ratio_high", "p_holm", "samples_a", "samples_b"]
SHOWN = [*TIMES, "verdict", "why"]


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, side by side.

    Attributes:
        kind: ``capture``, ``counters``, or the benchmark.
        names: of A and B, each with its date if that is known.
        keys: columns of ``table`` that name a row.
        differences: what differs besides the times, see ``context.differences``.
        table: ``keys``, then ``SHOWN``: medians in µs, B less A, B over A with its interval (NA if the rows hold too
            little), samples of each, the verdict and what changed with it. ``slower`` and ``quicker`` are beyond the
            threshold and no chance, ``unclear`` is beyond it but may be one, ``even`` is within it; ``fails`` and
            ``mended`` have an error in one run; ``only in A`` and ``only in B`` are in one. For compiled code see
            ``compiled.measures``.
        compared: rows that are in both runs.
        threshold_pct: changes up to it are even.
        notes: how verdicts were reached, and what to be careful with.
        groups: ``grouped`` by M or backend, if that was asked for.
    """

    kind: str
    names: tuple[str, str]
    keys: list[str]
    differences: pd.DataFrame
    table: pd.DataFrame
    compared: int
    threshold_pct: float
    notes: list[str]
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def regressions(self) -> pd.DataFrame:
        """The rows in which B is worse than A beyond the threshold."""
        return self.table[self.table["verdict"].isin(WORSE)]

    @property
    def unlike(self) -> bool:
        """Whether GPU or problem differ, so that a change of time need not be one of the code."""
        return bool(self.differences["about"].isin([context.GPU, context.PROBLEM]).any())


def beside(a: pd.DataFrame, b: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return two tables side by side: ``keys``, every other column with ``_a`` and ``_b``, and ``there``.

    Rows are in the order of A, then what only B has; ``there`` is ``both`` or one of ``ONLY``.
    """
    sides = []
    for side, end in ((a, "a"), (b, "b")):
        own = side.rename(columns={c: f"{c}_{end}" for c in side if c not in keys})
        # Of one type, so that a key that only one side has can be matched too.
        own[keys] = own[keys].astype("object").where(own[keys].notna(), None)
        sides.append(own.assign(**{f"at_{end}": range(len(own))}))
    both = sides[0].merge(sides[1], on=keys, how="outer") if keys else sides[0].merge(sides[1], how="cross")
    both["there"] = np.select([both["at_b"].isna(), both["at_a"].isna()], ONLY, "both")
    return both.sort_values(["at_a", "at_b"], ignore_index=True).drop(columns=["at_a", "at_b"])


def judged(both: pd.DataFrame, keys: list[str], threshold_pct: float) -> pd.DataFrame:
    """Return ``Comparison.table`` of rows side by side.

    Args:
        both: ``beside``, with time_us; samples, low_us and high_us, error, and ``why`` where there are any.
        keys: columns that name a row.
        threshold_pct: changes up to it are even.
    """
    a, b = (both[f"time_us_{side}"].astype("Float64") for side in ("a", "b"))
    found = both[keys].assign(time_a_us=a, time_b_us=b, change_us=b - a, ratio=b / a)
    held = both.reindex(columns=["samples_a", "samples_b"])
    found = found.join(spread.ratios(held))
    for side in held:
        counts = [own.size if isinstance(own, np.ndarray) else pd.NA for own in held[side]]
        found[side] = pd.array(counts, dtype="Int64")
    ranges = [_ranges(both, side) for side in ("a", "b")]
    certain = np.array([_certain(*row) for row in zip(found["p_holm"], *ranges, strict=True)], bool)
    known = found["ratio"].fillna(1.0).to_numpy(float)
    fails_a, fails_b = (both.reindex(columns=[f"error_{side}"]).notna().to_numpy()[:, 0] for side in ("a", "b"))
    cases = {
        "fails": fails_b & ~fails_a & (both["there"] == "both"),
        "mended": fails_a & ~fails_b & (both["there"] == "both"),
        **{there: both["there"] == there for there in ONLY},
        "even": abs(known - 1) <= threshold_pct / 100,
        "unclear": ~certain,
        "slower": known > 1,
    }
    verdict = np.select(list(cases.values()), list(cases), "quicker")
    table: pd.DataFrame = found.assign(verdict=verdict, why=both.get("why", ""))[[*keys, *SHOWN]]
    said: pd.DataFrame = table[~(fails_a & fails_b)]  # what fails in both says nothing
    return said.reset_index(drop=True)


def _certain(p: Any, a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    """Return whether a difference is no chance: by the test, or where there is none by ranges that do not overlap.

    Without a range on one side there is a single value, and only the threshold counts.
    """
    if not pd.isna(p):
        return bool(p < 1 - spread.LEVEL)
    return a is None or b is None or a[1] < b[0] or b[1] < a[0]


def _ranges(both: pd.DataFrame, side: str) -> list[tuple[float, float] | None]:
    """Return the range of each row: of its samples, or between its quantiles; None if it has neither."""
    held = both.reindex(columns=[f"samples_{side}", f"low_us_{side}", f"high_us_{side}"])
    out: list[tuple[float, float] | None] = []
    for own, low, high in held.itertuples(index=False):
        if isinstance(own, np.ndarray) and own.size > 1:
            out.append((float(own.min()), float(own.max())))
        else:
            out.append(None if pd.isna(low) or pd.isna(high) else (float(low), float(high)))
    return out


def grouped(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return one row per value of a key: cases, the geometric mean, least and most of their ratios, and verdicts.

    Columns key, cases, mean_ratio, least_ratio, most_ratio, slower, quicker, unclear; fails count as slower.
    """
    kinds = {"slower": WORSE, "quicker": BETTER, "unclear": ("unclear",)}
    rows = []
    for value, part in table[table["ratio"].notna() | table["verdict"].isin(WORSE)].groupby(key, sort=False):
        known = part["ratio"].dropna().astype(float)
        ratios = {"mean_ratio": geometric_mean(known), "least_ratio": known.min(), "most_ratio": known.max()}
        counts = {name: int(part["verdict"].isin(those).sum()) for name, those in kinds.items()}
        rows.append({key: value, "cases": len(part)} | ratios | counts)
    columns = [key, "cases", "mean_ratio", "least_ratio", "most_ratio", "slower", "quicker", "unclear"]
    return pd.DataFrame(rows, columns=columns)
