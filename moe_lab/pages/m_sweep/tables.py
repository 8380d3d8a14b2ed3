"""Tables of the experts benchmark: a DataFrame in, HTML out."""

from typing import Any

import pandas as pd

from moe_lab.analysis.sweep import Sweep
from moe_lab.pages.show import notes
from moe_lab.pages.show.notes import Note, Tall, or_note
from moe_lab.pages.show.tables import Column, Table
from moe_lab.spec import published


def summary(frame: pd.DataFrame, ours: str, baseline: str, caption: str = "") -> Table | Note:
    """Return the article's table: M, milliseconds a backend, the bound, and how many times as fast ours is.

    Args:
        frame: as ``analysis.sweep.times`` returns it.
        ours: the backend.
        baseline: the backend that it is set against first.
        caption: a sentence above it.
    """
    names = [str(key).partition("|")[2] for key in frame.columns if str(key).startswith("ms|")]
    first = [name for name in dict.fromkeys((ours, baseline)) if name in names]
    faster = f"{ours} is so many times as fast"
    columns = [
        Column("M", "M", "tokens", 0),
        *(Column(f"ms|{name}", name, "ms", 3) for name in first),
        Column("roofline_ms", "bound", "ms", 3),
        Column("pct_of_roofline", f"{ours} of the bound", "%", 0, most=100.0),
        Column("speedup", f"as {baseline}", digits=2, group=faster),
        Column("speedup_best", "as the best peer", digits=2, group=faster),
        Column("best", "best peer at this M", group=faster),
        *(Column(f"ms|{name}", name, "ms", 3, "other backends") for name in names if name not in first),
    ]
    return or_note(frame, Table(frame, columns, caption), "Nothing to show: no times of this model and routing.")


def winners(frame: pd.DataFrame) -> Table | Note:
    """Return the quickest backend of each M.

    Args:
        frame: as ``analysis.sweep.winners`` returns it.
    """
    columns = [
        Column("M", "M", "tokens", 0),
        Column("winner", "quickest"),
        Column("ms", "time", "ms", 3),
        Column("pct_of_roofline", "of the bound", "%", 0, bar=100.0, most=100.0),
        Column("bound_by", "bound by"),
        Column("next", "next"),
        Column("next_ms", "its time", "ms", 3),
        Column("lead_pct", "lead", "%", 1),
        Column("verdict", "verdict"),
    ]
    shown = frame.reindex(columns=[*frame.columns, *({"verdict"} - set(frame.columns))])
    return or_note(frame, Table(shown, columns), "Nothing to show: no times of this model and routing.")


def beside_published(frame: pd.DataFrame, ours: str, baseline: str) -> Table:
    """Return the run beside the published sweep, at the Ms of the latter.

    Args:
        frame: as ``analysis.sweep.times`` returns it; may be empty.
        ours: a backend of the run.
        baseline: another.
    """
    here = [key for key in (f"ms|{ours}", f"ms|{baseline}", "speedup") if key in frame]
    both = published.sweep_table().rename(columns={"speedup": "published_speedup"})
    both = both.merge(frame[["M", *here]], on="M", how="left") if here else both
    labels = {f"ms|{ours}": ours, f"ms|{baseline}": baseline, "speedup": "ratio"}
    there = published.SWEEP.label
    columns = [
        Column("M", "M", "tokens", 0),
        *(
            Column(key, labels[key], "" if key == "speedup" else "ms", 2 if key == "speedup" else 3, "this run")
            for key in here
        ),
        Column("triton_kernels_ms", "triton-kernels", "ms", 3, there, theirs=True),
        Column("sglang_ms", "SGLang", "ms", 3, there, theirs=True),
        Column("published_speedup", "ratio", "", 2, there, theirs=True),
    ]
    return Table(both, columns)


def published_source() -> Note:
    """Return where the published sweep is from, and what may be compared."""
    return Note(f"Published: {published.SWEEP.setup}. It is {published.SWEEP.caveat}.")


def details(rows: pd.DataFrame) -> Table | Note:
    """Return every backend and M with its rates, padding, memory, errors and the state of the GPU.

    Args:
        rows: as ``analysis.sweep.at`` returns them.
    """
    shown = rows.assign(workspace_mb=rows["workspace_bytes"] / 1e6)
    rates, gpu, wrong = "rates", "GPU meanwhile", "largest error, relative"
    columns = [
        Column("M", "M", "tokens", 0),
        Column("backend", "backend"),
        Column("median_us", "time", "µs", 1),
        Column("useful_tflops_per_s", "useful", "TFLOP/s", 1, rates),
        Column("executed_tflops_per_s", "executed", "TFLOP/s", 1, rates),
        Column("minimum_gb_per_s", "minimum bytes", "GB/s", 0, rates),
        Column("pct_of_read", "of reading", "%", 0, rates, most=100.0),
        Column("pct_of_matmul", "of a product", "%", 0, rates, most=100.0),
        Column("experts_hit", "experts hit", digits=0),
        Column("padding_waste_pct", "padding", "% more rows", 0),
        Column("workspace_mb", "peak workspace", "MB", 1),
        Column("error_max_rel", "found", digits=5, group=wrong),
        Column("bound_max_rel", "allowed", digits=5, group=wrong),
        Column("sm_mhz", "clock", "MHz", 0, gpu),
        Column("temperature_c", "temperature", "°C", 0, gpu),
        Column("power_w", "power", "W", 0, gpu),
        Column("throttled", "throttled", group=gpu),
    ]
    return or_note(rows, Tall(shown, columns), "Nothing to show: no times of this model and routing.")


def skew(frame: pd.DataFrame) -> Table | Note:
    """Return what each routing costs beside the uniform one.

    Args:
        frame: as ``analysis.sweep.skew`` returns it.
    """
    ratio = "time over uniform"
    columns = [
        Column("M", "M", "tokens", 0),
        Column("backend", "backend"),
        Column("routing", "routing"),
        Column("experts_hit", "experts hit", digits=0),
        Column("rows_most", "most rows", "of one expert", 0),
        Column("us", "time", "µs", 1),
        Column("ratio", "measured", digits=2, group=ratio),
        Column("bound_ratio", "by the bound", digits=2, group=ratio),
        Column("ratio_net", "net", digits=2, group=ratio),
    ]
    return or_note(frame, Tall(frame, columns), "Nothing to show: the run has one routing only.")


def roofs(sweep: Sweep) -> Table | Note:
    """Return what the GPU can do at most, as on every page.

    Args:
        sweep: the benchmark.
    """
    return notes.roofs(sweep.roofs)


def cold(sweep: Sweep) -> Note:
    """Return how cold the L2 cache was, as the run measured it.

    Args:
        sweep: the benchmark.
    """
    found: dict[str, Any] = sweep.measured.get("l2") or {}
    if not found:
        return Note("The run does not say whether the L2 cache was cold.")
    times = f"A read after the flush took {found['ratio']:.2f} times a warm one"
    if found["ratio"] < 1:
        return Note(f"{times}: no cache explains that, so the check of the flush failed.")
    state = "the L2 cache was cold" if found["cold"] else "the L2 cache was NOT cold, so small times are too good"
    return Note(f"{times}: {state}.")
