# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side: captures, counters, benchmarks or compiled code; what is slower, and how sure that is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.compare import compiled, context, judge, measured, spread, traced, why
from moe_lab.analysis.compare.judge import THRESHOLD_PCT as THRESHOLD_PCT
from moe_lab.analysis.compare.judge import Comparison as Comparison
from moe_lab.runs import Run
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

BY = ("stage", "kernel", "M", "backend")
_HOW = (
    f"An interval is the percentile bootstrap ({spread.RESAMPLES} resamples, {100 * spread.LEVEL:.0f} %) of the ratio "
    "of medians over the {what}. Slower and quicker: beyond the threshold, and p < {p:.2g} in a Mann-Whitney test "
    "adjusted for all rows by Holm's method. "
)
_FEW = f"Rows with fewer than {spread.LEAST} samples a side have no interval: there the ranges must not overlap."
_QUANTILES = (
    "The rows of a benchmark keep a median and quantiles, not the repetitions, so no interval can be given. Slower and "
    "quicker: beyond the threshold, and four fifths of one's repetitions are slower than four fifths of the other's."
)
_ONCE = "Times of kernels are those of one profiled call: there is no spread, so only the threshold decides."


def captures(
    runs: tuple[Run, Run],
    launches: tuple[Launches, Launches],
    by: str | None = None,
    threshold_pct: float = THRESHOLD_PCT,
    root: str | None = None,
) -> Comparison:
    """Compare two captures by stage or kernel of their roots; by ``M`` and ``backend`` it takes roots as a whole.

    Args:
        runs: A and B.
        launches: of each.
        by: of ``BY``; by default ``stage``, but ``kernel`` for counters and for reports without ranges.
        threshold_pct: percent of A's time.
        root: as for ``breakdown``.

    Raises:
        UserError: the runs share no row, or a report has no kernel to compare.
    """
    workloads = [run.manifest.get("workload") or {} for run in runs]
    a, b = (traced.operations(one, known, root) for one, known in zip(launches, workloads, strict=True))
    metas = (launches[0].meta, launches[1].meta)
    counters, marked = all(meta.get("counters") for meta in metas), a.attrs["marked"] and b.attrs["marked"]
    covered = [f"{side.attrs['covered_pct']:.1f} % of {name}'s" for name, side in (("A", a), ("B", b))]
    level = by or ("kernel" if counters or not marked else "stage")
    names = list(dict.fromkeys([*a.attrs["keys"], *b.attrs["keys"]]))
    apart = context.constants(a, b, names)
    keys = [name for name in names if name not in set(apart["fact"])]
    a, b = traced.alike(_with(a, keys), _with(b, keys), keys)
    own = [*keys, *{"stage": ["stage"], "kernel": ["stage", "kernel"]}.get(level, [])]
    both = judge.beside(traced.samples(a, keys, own), traced.samples(b, keys, own), own)
    facts = [traced.facts(side, keys) for side in (a, b)]
    both["why"] = [_why(row, own, facts) if "stage" in own else "" for row in both.to_dict("records")]
    what = "instances of each range" if marked else "launches of each kernel, as a report has no ranges"
    notes = [
        f"{' and '.join(covered)} kernel time lies in what is compared.",
        _HOW.format(what=what, p=1 - spread.LEVEL) + _FEW,
        "Instances come from one process a run: another process of the same program may differ by more than they do.",
    ]
    said = _first(context.differences(*runs, (a, b), metas), apart)
    found = _finished("counters" if counters else "capture", runs, own, said, both, threshold_pct, notes)
    return _grouped(found, by)


def _with(side: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the operations with a value in every key: an empty text where a root does not state it."""
    stated = side.reindex(columns=keys).astype("object")
    return side.assign(**{key: stated[key].where(stated[key].notna(), "") for key in keys})


def _why(row: dict[Any, Any], own: list[str], facts: Sequence[pd.DataFrame]) -> str:
    if row["stage"] == traced.TOTAL or row["there"] != "both":
        return ""
    mine = [side[np.logical_and.reduce([side[key] == row[key] for key in own])] for side in facts]
    return "; ".join(why.kernels(*mine))


def benchmarks(
    runs: tuple[Run, Run],
    rows: tuple[pd.DataFrame, pd.DataFrame],
    by: str | None = None,
    threshold_pct: float = THRESHOLD_PCT,
) -> Comparison:
    """Compare two benchmarks of one kind case by case; by ``stage`` or ``kernel`` the profiled call of each case.

    Raises:
        UserError: the benchmark cannot be compared, or the runs share no case.
    """
    bench = str(runs[0].manifest["bench"])
    if bench == compiled.BENCH:
        return _compiled(runs, rows, threshold_pct)
    a, b = (measured.cases(own, bench) for own in rows)
    who = measured.WHO[bench]
    a, b = measured.same_releases(a, b, who), measured.same_releases(b, a, who)
    apart = context.constants(a, b, measured.CASES[bench], measured.SIZES)
    keys = [key for key in measured.CASES[bench] if key not in set(apart["fact"])]
    said = _first(context.differences(*runs, rows), apart)
    parts = by in ("stage", "kernel")
    if parts:
        a, b = (measured.by_kernel(side, keys, str(by)) for side in (a, b))
        keys = [*keys, "stage", *["kernel"] * (by == "kernel")]
    both = judge.beside(a, b, keys)
    both["why"] = "" if parts else [_case(row) for row in both.to_dict("records")]
    found = _finished(bench, runs, keys, said, both, threshold_pct, [_ONCE if parts else _QUANTILES])
    return _grouped(found, by)


def _case(row: dict[Any, Any]) -> str:
    errors = [row[f"error_{side}"] for side in ("b", "a") if isinstance(row[f"error_{side}"], str)]
    return errors[0] if errors else "; ".join(why.case(row))


def _compiled(runs: tuple[Run, Run], rows: tuple[pd.DataFrame, pd.DataFrame], threshold_pct: float) -> Comparison:
    a, b = (compiled.cases(own) for own in rows)
    apart = context.constants(a, b, compiled.KEYS, ("arch", "gpu", "kernel", "M"))
    keys = [key for key in compiled.KEYS if key not in set(apart["fact"])]
    both = judge.beside(a, b, keys)
    said = _first(context.differences(*runs, rows), apart)
    notes = ["Compiled code has no spread: what differs, differs in every run of the same compiler."]
    return _finished(compiled.BENCH, runs, keys, said, both, threshold_pct, notes)


def _first(*parts: pd.DataFrame) -> pd.DataFrame:
    order = [context.GPU, context.PROBLEM, context.CLOCKS, context.VERSIONS]
    every = pd.concat(parts, ignore_index=True).drop_duplicates(["about", "fact"])
    return every.sort_values("about", key=lambda s: s.map(order.index), kind="stable", ignore_index=True)


def _finished(
    kind: str,
    runs: tuple[Run, Run],
    keys: list[str],
    said: pd.DataFrame,
    both: pd.DataFrame,
    threshold_pct: float,
    notes: list[str],
) -> Comparison:
    shared = int((both["there"] == "both").sum())
    if not shared:
        what = "case" if kind in measured.CASES else "row"
        raise UserError(f"The two runs share no {what} of {', '.join(keys)}; compare runs of the same sizes.")
    judged = compiled.measures if kind == compiled.BENCH else judge.judged
    table = judged(both, keys, threshold_pct)
    return Comparison(kind, context.named(runs), keys, said, table, shared, threshold_pct, notes)


def _grouped(found: Comparison, by: str | None) -> Comparison:
    if by not in ("M", "backend"):
        return found
    key = {"M": measured.SIZE, "backend": measured.WHO}[by].get(found.kind, by)
    if key not in found.keys:
        raise UserError(f"The runs have no {key} in common by which rows could be put together; compare without --by.")
    return replace(found, groups=judge.grouped(found.table, key))
