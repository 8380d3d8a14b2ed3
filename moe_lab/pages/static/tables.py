# SPDX-License-Identifier: Apache-2.0
"""Tables of compiled code: a DataFrame in, HTML out."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from moe_lab.analysis import static_check, static_tables
from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published


def over_architectures(frame: pd.DataFrame) -> Table | Note:
    """Return the kernels with a group of columns per architecture (``static_tables.over_architectures``)."""
    columns = heads("what", label="kernel")
    for arch in dict.fromkeys(frame["arch"]):
        shown = [replace(column, unit="") for column in heads(" ".join(static_tables.WORST), group=arch)]
        columns += [replace(column, key=f"{column.key} {arch}") for column in shown]
    caption = (
        "Registers per thread, on AMD with those for accumulation; spilled registers on AMD, instructions on local "
        "memory on NVIDIA; occupancy in per cent; mean bytes of a load per thread. A dash: not there, or by TMA."
    )
    known = static_tables.wide(frame) if len(frame) else frame
    return or_note(frame, Table(known, columns, caption), "Nothing to show: no launch was compiled.")


def amd(frame: pd.DataFrame) -> Table | Note:
    """Return the kernels on AMD, beside published ones if there are any (``static_tables.amd``)."""
    columns = [*heads("of stage kernel format M arch"), *heads(" ".join(static_tables.AMD))]
    note = (
        f"Published, not ours: {published.ALIGN_AMD.setup}; LDS rounded to kB."
        if "published" in set(frame["of"])
        else ""
    )
    return or_note(frame, Table(frame, columns, note), "Nothing to show: no launch was compiled for AMD.")


def coverage(checks: Sequence[static_check.Check]) -> Table | Note:
    """Return how many launches of each capture were compiled too, and agree."""
    frame = static_check.coverage(checks)
    columns = heads("capture triton launches compiled agree others")
    columns[2] = replace(columns[2], unit="counted by ncu")
    return or_note(frame, Table(frame, columns), "No capture of counters was given.")


def launches(checks: Sequence[static_check.Check]) -> Table | Note:
    """Return every launch that was both counted and compiled (``static_check.beside``)."""
    parts = [one.both.assign(capture=one.capture) for one in checks if len(one.both)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["capture"])
    columns = [*heads("capture M"), Column("call", "backend or algorithm"), *heads("stage kernel")]
    for ours, theirs in zip(static_check.BESIDE[::2], static_check.BESIDE[1::2], strict=True):
        (group,) = heads(ours)
        digits = {"digits": group.digits, "unit": "", "group": group.label}
        columns += [*heads(ours, **digits | {"label": "compiled"}), *heads(theirs, **digits | {"label": "ncu"})]
    return or_note(frame, Table(frame, columns), "No launch is in both a capture and a run by the same Triton.")
