# SPDX-License-Identifier: Apache-2.0
"""Whether two times differ: intervals by the bootstrap, and a test that allows for the number of comparisons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

LEVEL = 0.95
RESAMPLES = 2000
LEAST = 8  # samples of a side: with fewer, the test cannot tell a difference among some dozen rows


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return the interval of each ratio of medians, and how likely such a difference is by chance.

    Args:
        table: columns samples_a and samples_b: float64 arrays [n], µs; None or fewer than ``LEAST`` = no interval.

    Returns:
        ratio_low, ratio_high: percentile bootstrap (``scipy.stats.bootstrap``) of median b over median a at ``LEVEL``;
        p_holm: two-sided Mann-Whitney U test, adjusted for all rows by Holm's method, which keeps the chance of even
        one false difference below 1 - ``LEVEL``. NA where there are too few samples.
    """
    from scipy import stats  # half a second, which no other command should wait

    enough = [_enough(a, b) for a, b in zip(table["samples_a"], table["samples_b"], strict=True)]
    columns = ["ratio_low", "ratio_high", "p_holm"]
    found = pd.DataFrame(index=table.index, columns=columns).astype("Float64")
    rows = table.index[enough]
    if len(rows):
        pairs = [(table.at[row, "samples_a"], table.at[row, "samples_b"]) for row in rows]
        found.loc[rows, ["ratio_low", "ratio_high"]] = np.array([_interval(a, b) for a, b in pairs])
        found.loc[rows, "p_holm"] = holm([float(stats.mannwhitneyu(a, b).pvalue) for a, b in pairs])
    return found


def _enough(a: Any, b: Any) -> bool:
    return all(isinstance(side, np.ndarray) and side.size >= LEAST for side in (a, b))


def _interval(a: Any, b: Any) -> tuple[float, float]:
    from scipy import stats

    if np.ptp(a) == 0 and np.ptp(b) == 0:  # every resample is the same
        return float(b[0] / a[0]), float(b[0] / a[0])
    found = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.median(y, axis=axis) / np.median(x, axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",  # BCa needs a jackknife, which a median does not have
        vectorized=True,
        rng=np.random.default_rng(0),  # the same two runs give the same table
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down method (S. Holm, 1979): the smallest times n, the next n - 1 ..."""
    order = np.argsort(p)
    scaled = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]
