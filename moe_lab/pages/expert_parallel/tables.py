# SPDX-License-Identifier: Apache-2.0
"""Tables of experts on several ranks: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.analysis import ep
from moe_lab.analysis import overlap as overlapped
from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Table, heads

CASE = " ".join(ep.CASE)


def parts(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return each part and how far it is from its floor (``analysis.ep.side_by_side``), or the sentence ``missing``."""
    columns = heads(f"{CASE} comm")
    for part in ("full", *ep.PARTS):
        group = "all" if part == "full" else part
        columns += [*heads(f"{part}_us", label="time", group=group), *heads(f"{part}_over", group=group)]
    return or_note(frame, Table(frame, columns), missing)


def ways(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return the bytes of dispatch and combine, and their rates (rows of ``analysis.ep.parts``)."""
    columns = [
        *heads(f"{CASE} comm"),
        *heads("part", label="part"),
        *heads("median_us floor_us needed_bytes sent_gb_per_s"),
    ]
    return or_note(frame, Table(frame, columns), missing)


def overlap(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return what shared experts gain from being computed while rows travel (``analysis.overlap.saved``)."""
    columns = heads(f"{CASE} comm {' '.join(overlapped.COLUMNS)}")
    caption = "Shared experts at the end (time), among the routed ones (fused), and while rows travel (overlapped)."
    return or_note(frame, Table(frame, columns, caption), missing)


def by_rank(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return the parts of each rank and its waiting (``analysis.ep.by_rank``)."""
    columns = heads(f"{CASE} comm rank pairs dispatch_us experts_us combine_us waits_us")
    return or_note(frame, Table(frame, columns), missing)


def placements(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return what other placements would do (``analysis.ep.placements``)."""
    return or_note(frame, Table(frame, heads(f"{CASE} placement fullest over_mean fewer_pct")), missing)


def projection(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return what the model expects on more ranks (``analysis.ep.projection``)."""
    names = "model format comm M ranks dispatch_us experts_us combine_us total_us tokens_per_us fit_pct"
    return or_note(frame, Table(frame, heads(names, theirs=True)), missing)


def exposed(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return the communication that a rank does not hide (``analysis.ranks.exposed``)."""
    names = "rank step_us compute_us communication_us hidden_us exposed_us exposed_pct idle_us"
    return or_note(frame, Table(frame, heads(names)), missing)


def stages(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return the stages of each rank (``analysis.ranks.stages``)."""
    return or_note(frame, Table(frame, [*heads("rank stage"), *heads("time_us pct")]), missing)


def arrivals(frame: pd.DataFrame, missing: str = "") -> Table | Note:
    """Return who begins to communicate last (``analysis.ranks.arrivals``)."""
    return or_note(frame, Table(frame, heads("stage rank late_us last_pct")), missing)
