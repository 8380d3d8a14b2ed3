# SPDX-License-Identifier: Apache-2.0
"""One decoder layer in its phases (prefill, decode): split into stages, and compared with published figures."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.analysis.breakdown import UNATTRIBUTED, breakdown
from moe_lab.analysis.captures import gpu_facts, short_gpu
from moe_lab.analysis.timeline import timeline
from moe_lab.runs import Run
from moe_lab.spec import published, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

ORDER = ("norm", "self_attn", *ranges.STAGES, ranges.EXPERTS, "shared_experts", "other")


@dataclass(frozen=True)
class Phase:
    """One run, reduced to one layer.

    Attributes:
        name: ``prefill``, ``decode``, or whatever the run says it is.
        run: the run.
        launches: every GPU operation of the run.
        layer_range: regular expression of the range that is one layer.
        ranges: ``breakdown`` of the layer, one row per range; ``attrs["coverage"]`` is its coverage.
        stages: ``stages`` of those ranges.
        known: runs in which the roofs of its GPU are looked for.
    """

    name: str
    run: Run
    launches: Launches
    layer_range: str
    ranges: pd.DataFrame
    stages: pd.DataFrame
    known: Sequence[Run] = ()

    @property
    def layer_ms(self) -> float:
        """Kernel sum of one layer, ms (median over its instances)."""
        return float(self.ranges["kernel_sum_ms"].iloc[0])

    @property
    def part(self) -> str:
        """What the ranges are parts of: ``layer``, or the name of a range that is only a part of a layer."""
        name = ranges.short_name(str(self.ranges["name"].iloc[0]))
        return "layer" if re.fullmatch(r"layers\.\d+", name) else name


def phase(name: str, run: Run, launches: Launches, layer_range: str) -> Phase:
    """Return the phase of a run; ``layer_range`` is a regular expression of the range that is one layer.

    Raises:
        UserError: not exactly one range matches.
    """
    table = breakdown(launches, layer_range)
    roots = table.loc[(table["depth"] == 0) & (table["path"] != UNATTRIBUTED), "name"]
    if len(roots) != 1:
        some = ", ".join(roots[:3])
        raise UserError(f"'{layer_range}' matches {len(roots)} ranges ({some}, ...); make it match one layer.")
    return Phase(name, run, launches, layer_range, table, stages(table))


def layer_timeline(phase: Phase) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the operations and ranges of the layer of median span, operations with their stage.

    Returns:
        As ``analysis.timeline.timeline``; ``stage`` as in ``stages``, ``other`` if an operation lies in none.
    """
    operations, spans = timeline(phase.launches, phase.layer_range)
    operations = operations.assign(stage=operations["path"].map(_stage_of_path))
    return operations, spans.assign(stage=spans["name"].map(ranges.stage_of))


def _stage_of_path(path: str) -> str:
    found = [stage for stage in map(ranges.stage_of, path.split("/")) if stage]
    inner = found[1:] if found[:1] == [ranges.EXPERTS] else []
    return (inner or found or ["other"])[0]


def stages(table: pd.DataFrame) -> pd.DataFrame:
    """Split the breakdown of a layer into stages that add up to the layer; nothing is counted twice.

    Args:
        table: ``breakdown`` with the layer as its only root.

    Returns:
        Columns ``stage``, ``time_ms`` (median kernel sum of a layer), ``pct_of_layer`` (of all its instances) and
        ``kernels``, in the order of the pipeline; ``other`` is what lies in no stage.
    """
    rows: dict[str, dict[str, float]] = {}
    claimed: list[str] = []
    staged = [path for path, name in zip(table["path"], table["name"], strict=True) if ranges.stage_of(name)]
    for row in rows_of(table[table["path"] != UNATTRIBUTED]):
        stage = ranges.stage_of(row.name)
        if stage == ranges.EXPERTS and any(path.startswith(f"{row.path}/") for path in staged):
            continue  # the stages inside say more
        # A stage inside another stage is already counted there.
        if stage is None or any(row.path.startswith(f"{path}/") for path in claimed):
            continue
        claimed.append(row.path)
        total = rows.setdefault(stage, {"time_ms": 0.0, "pct_of_layer": 0.0, "kernels": 0.0})
        total["time_ms"] += row.kernel_sum_ms
        total["pct_of_layer"] += row.pct_of_root
        total["kernels"] += row.kernels
    out = pd.DataFrame([{"stage": stage, **values} for stage, values in rows.items()], columns=_STAGE_COLUMNS)
    rest = 100 - out["pct_of_layer"].sum()  # by shares, not by medians, which need not add up
    if rest > 0.005:  # less is rounding
        layer: Any = table.iloc[0]
        out.loc[len(out)] = ["other", layer.kernel_sum_ms * rest / 100, rest, layer.kernels - out["kernels"].sum()]
    return out.sort_values(
        "stage", key=lambda s: s.str.split("+").str[0].map(ORDER.index), kind="stable", ignore_index=True
    )


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Return the rows as named tuples, typed as Any, because their fields are columns."""
    return iter(table.itertuples())


_STAGE_COLUMNS = ["stage", "time_ms", "pct_of_layer", "kernels"]


def published_rows(phase: Phase, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a published table that a phase may be compared with.

    There are none for another phase, for ranges that are not a decoder layer, or for a run of another model.
    """
    model = (phase.run.manifest.get("workload") or {}).get("model") or published.L40.model
    return table[(table["phase"] == phase.name) & (phase.part == "layer") & (model == published.L40.model)]


def beside_published(phase: Phase) -> pd.DataFrame:
    """Return the phase's ranges beside the published L40 time and share of the same ranges.

    Returns:
        Columns name, depth, instances, kernels, kernel_sum_ms, busy_ms, gap_ms, pct_of_layer, and published_ms and
        published_pct, which are NA where nothing was published.
    """
    table = phase.ranges.rename(columns={"pct_of_root": "pct_of_layer"}).copy()
    theirs = published_rows(phase, published.layer_table()).set_index("name")
    # The published table is of layer 0; a run may have measured another one.
    key = table["name"].map(lambda n: re.sub(r"^layers\.\d+$", "layers.0", ranges.short_name(n)))
    table["published_ms"] = key.map(theirs["time_ms"]).astype("Float64")
    table["published_pct"] = key.map(theirs["pct_of_layer"]).astype("Float64")
    times = ["kernels", "kernel_sum_ms", "busy_ms", "gap_ms", "pct_of_layer"]
    return table[["name", "depth", "instances", *times, "published_ms", "published_pct"]]


def share_rows(phases: list[Phase]) -> pd.DataFrame:
    """Return the stages of all phases, each followed by its published ones: one stacked bar per ``row``.

    Returns:
        Columns ``row`` (label), ``stage``, ``time_ms``, ``pct_of_layer``, ``published``.
    """
    parts = []
    for phase in phases:
        parts.append(phase.stages.assign(row=f"{phase.name}, {gpu_name(phase)}", published=False))
        theirs = published_rows(phase, published.stage_shares())
        parts.append(theirs.assign(row=f"{phase.name}, {published.L40.label}"))
    return pd.concat(parts, ignore_index=True)[["row", "stage", "time_ms", "pct_of_layer", "published"]]


def gpu_name(phase: Phase) -> str:
    """Return the GPU's name without its vendor, or ``unknown GPU``."""
    return short_gpu(gpu_facts(phase.run, phase.launches.meta).get("name")) or "unknown GPU"
