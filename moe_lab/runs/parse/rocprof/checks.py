# SPDX-License-Identifier: Apache-2.0
"""Refuse what cannot be right in a trace of rocprofv3, and say what is missing from it."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.assemble import Operations
from moe_lab.runs.attribution.keys import match
from moe_lab.runs.parse import _doubts
from moe_lab.spec.errors import UserError

AGAIN = "run rocprofv3 again"
# Calls that launch one kernel; launches of graphs are counted separately.
LAUNCH = r"hip(?:Ext)?(?:Module)?Launch(?:Cooperative)?Kernel\w*|hipLaunchByPtr\w*"
GRID = ["Grid_Size_X", "Grid_Size_Y", "Grid_Size_Z"]
LATEST_NS = 2**62  # so that sums of two times stay within 64 bits
TEN_DAYS_NS = 864_000_000_000_000  # no kernel takes so long; sums of durations stay within 64 bits


def numbers(
    path: Path, frame: pd.DataFrame, texts: Collection[str], operations: bool, *, lines: str = "line", first: int = 2
) -> None:
    """Refuse impossible numbers in a file.

    Args:
        path: the file.
        frame: its rows; all columns but ``texts`` are int64, -1 = not there.
        texts: the columns that hold text.
        operations: whether the rows are kernels or copies, which end after they start.
        lines: what a row of the file is called.
        first: the number of the first one. Lines count from 1, and in CSV the first is the header.
    """
    for column in (str(c) for c in frame if c not in texts):
        most = LATEST_NS if column.endswith("_Timestamp") else 2**63 - 1 if column.endswith("_Id") else 2**32
        values = frame[column].to_numpy(np.int64)
        wrong = (values < (0 if column.endswith("_Timestamp") else -1)) | (values > most)
        if wrong.any():
            at = int(wrong.argmax())
            raise UserError(
                f"{path.name} is damaged: {lines} {at + first} has {values[at]} in column {column}; {AGAIN}."
            )
    if not operations:
        return
    lasts = (frame["End_Timestamp"] - frame["Start_Timestamp"]).to_numpy(np.int64)
    wrong = (lasts < 0) | (lasts > TEN_DAYS_NS)
    if wrong.any():
        raise UserError(
            f"{path.name} is truncated or damaged: {int(wrong.sum())} of {len(frame)} operations end before they "
            f"start or last more than ten days, the first in {lines} {int(wrong.argmax()) + first}; {AGAIN}."
        )
    if set(GRID) <= set(frame) and (frame[GRID].astype(float).prod(axis=1).abs() > 2.0**62).any():
        raise UserError(f"{path.name} is damaged: a grid has more work-items than 62 bits count; {AGAIN}.")


def missing(calls: pd.DataFrame, ops: Operations, how: str) -> list[str]:
    """Return sentences on launches in the HIP trace that have no kernel; ``how`` says how to record all."""
    process, correlation = (calls[c].to_numpy(np.int64) for c in ("process", "Correlation_Id"))
    alone = match(process, correlation, ops.process, ops.correlation) < 0
    names = calls["Function"].astype(str)
    graphs = names.str.startswith("hipGraphLaunch").to_numpy(bool) & alone
    launches = names.str.fullmatch(LAUNCH).to_numpy(bool)
    said = [_doubts.without_kernels(int(graphs.sum()), "HIP", f"{how} to have them")] if graphs.any() else []
    if (launches & alone).any():
        said.append(
            f"{int((launches & alone).sum())} of {int(launches.sum())} kernel launches of the HIP trace have no kernel "
            "in the kernel trace: these are missing from every number; a kernel filter or a truncated file can be the "
            "cause."
        )
    return said
