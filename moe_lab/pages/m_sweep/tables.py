# SPDX-License-Identifier: Apache-2.0
"""Tables of the experts benchmark: a DataFrame in, HTML out."""

from dataclasses import replace
from typing import Any

import pandas as pd

from moe_lab.analysis.formats import BASE
from moe_lab.analysis.sweep import Sweep
from moe_lab.pages.show import notes
from moe_lab.pages.show.findings import Finding
from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published


def summary(frame: pd.DataFrame, ours: str, baseline: str = "", caption: str = "") -> Table | Note:
    """Return the time of each backend at each M, the bound, and the speed-up of ours.

    ``frame`` is ``analysis.sweep.times`` of one model and routing; without a ``baseline`` ours is set against the best
    peer only.
    """
    keys = [str(key) for key in frame.columns if str(key).startswith("ms|")]
    shown = frame.assign(**{key: 1e3 * frame[key].astype(float) for key in [*keys, "roofline_ms"] if key in frame})
    faster = f"how many times as fast {ours} is"
    columns = [
        *heads("M"),
        *(_time(name) for name in dict.fromkeys((ours, baseline)) if f"ms|{name}" in keys),
        *heads("roofline_ms", unit="µs", digits=1),
        *heads("pct_of_roofline", label=f"{ours} of the bound", most=100.0),
        *(heads("speedup", label=f"as {baseline}", group=faster) if baseline else []),
        *heads("speedup_best best", group=faster),
        *(_time(key[3:], "other backends") for key in keys if key[3:] not in (ours, baseline)),
    ]
    return or_note(shown, Table(shown, columns, caption), "Nothing to show: no times of this model and routing.")


def _time(name: str, group: str = "") -> Column:
    return Column(f"ms|{name}", name, "µs", 1, group)


def formats(beside: pd.DataFrame) -> Table | Note:
    """Return the quickest backend of each format at each M, with its error (``analysis.formats.side_by_side``)."""
    keys = ["gpu", "model", "M"]
    shown, columns = beside[keys].drop_duplicates(), heads("gpu M")
    for name, part in beside.groupby("format", sort=False):
        own = part.set_index(keys)[["backend", "median_us", "speedup", "error_vs_bf16_rms_pct"]]
        own = own.add_suffix(f"|{name}").reset_index()
        shown = shown.merge(own, on=keys, how="left")
        gain = [] if name == BASE else heads("speedup", label=f"as {BASE}", unit="times", group=str(name))
        found = [*heads("backend median_us", group=str(name)), *gain, *heads("error_vs_bf16_rms_pct", group=str(name))]
        columns += [replace(column, key=f"{column.key}|{name}") for column in found]
    return or_note(beside, Table(shown, columns), "Nothing to show: no run of another format was read.")


def winners(frame: pd.DataFrame) -> Table | Note:
    """Return the quickest backend at each M (``analysis.sweep.winners``)."""
    columns = [
        *heads("M winner"),
        *heads("ms", unit="µs", digits=1),
        *heads("pct_of_roofline", bar=100.0, most=100.0),
        *heads("bound_by next"),
        *heads("next_ms", unit="µs", digits=1),
        *heads("lead_pct verdict"),
    ]
    # Without rows the table has no verdicts.
    shown = frame.reindex(columns=[*frame.columns, *({"verdict"} - set(frame.columns))])
    shown = shown.assign(**{c: 1e3 * shown[c] for c in ("ms", "next_ms") if c in frame})
    return or_note(frame, Table(shown, columns), "Nothing to show: no times of this model and routing.")


def beside_published(frame: pd.DataFrame, ours: str, baseline: str) -> Table:
    """Return two backends of the run (``analysis.sweep.times``, perhaps empty) beside the published sweep."""
    here = [Column(f"ms|{name}", name, "ms", 3, "this run") for name in dict.fromkeys((ours, baseline))]
    here = [c for c in (*here, Column("speedup", "ratio", "", 2, "this run")) if c.key in frame]
    both = published.sweep_table().rename(columns={"speedup": "published_speedup"})
    both = both.merge(frame[["M", *(c.key for c in here)]], on="M", how="left") if here else both
    theirs = heads("triton_kernels_ms sglang_ms published_speedup", group=published.SWEEP.label, theirs=True)
    columns = [*heads("M"), *here, *theirs]
    return Table(both, columns)


def published_source() -> Note:
    """Return the source of the published sweep, and what may be compared."""
    return Note(f"Published: {published.SWEEP.setup}. It is {published.SWEEP.caveat}.")


def details(rows: pd.DataFrame) -> Table | Note:
    """Return every backend and M with rates, padding, memory, errors and the GPU (``analysis.sweep.at``)."""
    shown = rows.assign(workspace_mb=rows["workspace_bytes"] / 1e6)
    rates, gpu, wrong = "rates", "GPU meanwhile", "largest error, relative"
    columns = [
        *heads("M backend median_us"),
        *heads("useful_tflops_per_s executed_tflops_per_s minimum_gb_per_s", group=rates),
        *heads("pct_of_read pct_of_matmul", group=rates, most=100.0),
        *heads("experts_hit padding_waste_pct workspace_mb"),
        *heads("error_max_rel bound_max_rel", group=wrong),
        *heads("sm_mhz temperature_c power_w throttled", group=gpu),
    ]
    return or_note(rows, Table(shown, columns), "Nothing to show: no times of this model and routing.")


def skew(frame: pd.DataFrame) -> Table | Note:
    """Return what each routing costs beside the uniform one (``analysis.sweep.skew``)."""
    ratio = "time over uniform"
    columns = [
        *heads("M backend routing experts_hit rows_most us"),
        *heads("ratio", label="measured", group=ratio),
        *heads("bound_ratio ratio_net", group=ratio),
    ]
    return or_note(frame, Table(frame, columns), "Nothing to show: the run has one routing only.")


def roofs(sweep: Sweep) -> Table | Note:
    """Return what the GPU can do at most, as on every page."""
    return notes.roofs(sweep.roofs)


def cold(sweep: Sweep) -> Note:
    """Return a sentence on whether the L2 cache was cold, as the run measured it."""
    found: dict[str, Any] = sweep.measured.get("l2") or {}
    if not found:
        return Note("The run does not say whether the L2 cache was cold.")
    times = f"A read after the flush took {found['ratio']:.2f} times a warm one"
    if found["ratio"] < 1:
        return Note(f"{times}: no cache explains that, so the check of the flush failed.")
    state = "the L2 cache was cold" if found["cold"] else "the L2 cache was NOT cold, so small times are too good"
    return Note(f"{times}: {state}.")


def caution(finding: Finding) -> Note:
    """Return a caution on a run beside whose table it stands."""
    return Note(str(finding))
