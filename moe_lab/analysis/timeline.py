# SPDX-License-Identifier: Apache-2.0
"""One instance of a root range, operation by operation."""

import numpy as np
import pandas as pd

from moe_lab.analysis.kernels import operation_paths, stage_column
from moe_lab.runs.attribution.columns import strings
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.attribution.tree import Times, Tree, build, paths, times
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

LAUNCH = ("grid_blocks", "block_threads", "registers_per_thread")  # NA for copies


def timeline(
    launches: Launches, root: str | None = None, instance: str | int = "median"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the operations and ranges of one root instance, with times counted from its first operation.

    Args:
        launches: the report.
        root: regular expression searched in range names, as for ``breakdown``.
        instance: ``median`` (the one of median span; of two middle ones the shorter), or its number in order of time,
            from 0; negative numbers count from the end.

    Returns:
        (operations, ranges). Operations, in order of start: kind, name, path (from the root down), stage (NA = none),
        stream, start_us, duration_us and ``LAUNCH``. Ranges, parents first: name, path, depth (0 = the root), start_us,
        end_us, projected onto the GPU: from the first start to the last end of what they launched.

    Raises:
        UserError: the expression is not valid or matches no range with GPU operations, or there is no such instance.
    """
    tree = build(launches, root)
    inside = times(tree)
    chosen = _choose(tree, inside, root, instance)
    rows = np.flatnonzero(tree.operation_root == chosen)
    rows = rows[np.argsort(tree.start[rows], kind="stable")]
    origin = int(inside.first[chosen])
    path, values = operation_paths(tree, rows)
    table = launches.table.iloc[rows].reset_index(drop=True)
    operations = pd.DataFrame(
        {
            "kind": table["kind"],
            "name": table["name"],
            "path": strings(path, values),
            "stage": stage_column(tree, rows),
            "stream": table["stream"],
            "start_us": (tree.start[rows] - origin) / 1e3,
            "duration_us": (tree.end[rows] - tree.start[rows]) / 1e3,
            **{column: table[column] for column in LAUNCH},
        }
    )
    return operations, _ranges(tree, inside, chosen, origin)


def _choose(tree: Tree, inside: Times, root: str | None, instance: str | int) -> int:
    """Return the root instance that was asked for."""
    is_root = tree.root == np.arange(len(tree.root))
    # Counts are shifted by one, as operations in no root have -1.
    roots = np.flatnonzero(is_root & (np.bincount(tree.operation_root + 1, minlength=len(is_root) + 1)[1:] > 0))
    if not len(roots):
        which = f"a range that matches '{root}'" if root else "any range"
        raise UserError(
            f"No GPU operation lies in {which}; choose a range around GPU work, or capture with NVTX ranges."
        )
    roots = roots[np.argsort(inside.first[roots], kind="stable")]
    if instance == "median":
        span = inside.last[roots] - inside.first[roots]
        # An instance that really ran and not a mean of several, as its operations must fit together.
        return int(roots[np.argsort(span, kind="stable")[(len(roots) - 1) // 2]])
    if isinstance(instance, str) or not -len(roots) <= instance < len(roots):
        raise UserError(f"There is no instance {instance!r}; give 'median' or a number from 0 to {len(roots) - 1}.")
    return int(roots[instance])


def _ranges(tree: Tree, inside: Times, chosen: int, origin: int) -> pd.DataFrame:
    code, values, depth, _ = paths(tree, inside.operations > 0)
    rows: Ints = np.flatnonzero((code >= 0) & (tree.root == chosen))
    rows = rows[np.lexsort((tree.depth[rows], inside.first[rows]))]
    rows = rows[np.argsort(tree.depth[rows], kind="stable")]
    return pd.DataFrame(
        {
            "name": strings(tree.name[rows], tree.names),
            "path": strings(code[rows], values),
            "depth": depth[code[rows]],
            "start_us": (inside.first[rows] - origin) / 1e3,
            "end_us": (inside.last[rows] - origin) / 1e3,
        }
    )
