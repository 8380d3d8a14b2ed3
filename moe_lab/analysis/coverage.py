# SPDX-License-Identifier: Apache-2.0
"""How much of the kernel time is attributed."""

from dataclasses import dataclass, replace

import numpy as np

from moe_lab.runs.attribution.keys import Bools
from moe_lab.runs.attribution.tree import Tree, build
from moe_lab.spec.launches import Launches


@dataclass(frozen=True)
class Coverage:
    """How much of the kernel time is attributed; percentages are None where there is nothing to divide by.

    Attributes:
        kernels: kernels in the report.
        kernel_time_ms: their summed duration.
        in_range_pct: share of it that lies in any range.
        in_root_pct: share of it that lies in the roots.
        in_stage_pct: share of the roots' kernel time that lies in a stage, attention or a norm (``ranges.stage_of``)
            and not directly in a root, ``layers.0`` or ``mlp``; None if the report marks no stages.
        graph_kernels: kernels launched by graphs.
        in_capture_pct: share of these kernels' time that is attributed to the range in which the graph was captured,
            and not only to the range around the replay; None if there are no such kernels.
        by_name_pct: share of the kernel time that has its role by name (``roles.apply``); None if nobody asked for
            roles. Of the other shares, which are of ranges in the report, only ``in_stage_pct`` includes such roles.
    """

    kernels: int
    kernel_time_ms: float
    in_range_pct: float | None
    in_root_pct: float | None
    in_stage_pct: float | None
    graph_kernels: int
    in_capture_pct: float | None
    by_name_pct: float | None = None


def coverage(launches: Launches, root: str | None = None) -> Coverage:
    """Return how much of the kernel time lies in ranges, in the roots and in stages; ``root`` as for ``breakdown``."""
    return of(build(launches, root))


def of(tree: Tree) -> Coverage:
    """Return the coverage of a tree."""
    duration = np.where(tree.kernel, tree.end - tree.start, 0)
    total = int(duration.sum())
    graph = tree.graph & tree.kernel
    return Coverage(
        int(tree.kernel.sum()),
        total / 1e6,
        _pct(int(duration[tree.range_id >= 0].sum()), total),
        _pct(int(duration[tree.operation_root >= 0].sum()), total),
        _in_stage(tree, tree.operation_root >= 0),
        int(graph.sum()),
        _pct(int(duration[graph & tree.captured].sum()), int(duration[graph].sum())),
    )


def with_roles(bare: Tree, tree: Tree) -> Coverage:
    """Return the coverage of a report in which some kernels got a role by name: ``bare`` is its tree without roles."""
    duration = np.where(tree.kernel, tree.end - tree.start, 0)
    by_name = _pct(int(duration[tree.range_id != bare.range_id].sum()), int(duration.sum()))
    return replace(of(bare), in_stage_pct=_in_stage(tree, bare.operation_root >= 0), by_name_pct=by_name)


def _in_stage(tree: Tree, inside: Bools) -> float | None:
    """Return which share of the kernel time of the operations ``inside`` lies in stages; None without any stage."""
    duration, stages = np.where(tree.kernel, tree.end - tree.start, 0), tree.stages()
    if not (stages >= 0).any():
        return None
    # Copies do not count here, as the rows show the time of kernels.
    staged = inside & (stages[tree.range_id] >= 0)
    return _pct(int(duration[staged].sum()), int(duration[inside].sum()))


def _pct(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
