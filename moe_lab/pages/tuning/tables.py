# SPDX-License-Identifier: Apache-2.0
"""Tables of a tuning: a DataFrame in, HTML out."""

from dataclasses import replace

import pandas as pd

from moe_lab.pages.show import tiles
from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Table, heads

_NOTHING = "Nothing to show: the tuning has no M with a result."


def chosen(frame: pd.DataFrame) -> Table | Note:
    """Return the tiles of each M (``analysis.tuning.chosen``)."""
    own, one, found = "backend's own tile", "one tile for both", "the search"
    shown, w13 = tiles.split(frame, "w13", 6)
    shown, w2 = tiles.split(shown, "w2", 6)
    columns = [
        *heads("M us"),
        *heads("default_us", label="time", group=own),
        *heads("gain_pct", group=own),
        *w13,
        *w2,
        *heads("one one_pct", group=one),
        *heads("tried failed over_seen_pct", group=found),
    ]
    return or_note(shown, Table(shown, columns), _NOTHING)


def landscape(frame: pd.DataFrame) -> Table | Note:
    """Return the tiles measured at one M, the quickest first (``analysis.tuning.landscape``)."""
    shown, tile = tiles.split(frame, "tile", 6)
    columns = [*heads("part"), *tile, *heads("us over_best round")]
    return or_note(shown, Table(shown, columns), _NOTHING)


def between(frame: pd.DataFrame) -> Table | Note:
    """Return what the nearest key costs at Ms between the tuned ones (``analysis.tuning.between``)."""
    columns = [
        *heads("M"),
        *heads("nearest nearest_us cost_pct", group="nearest key"),
        *heads("other", group="key on the other side"),
        *heads("other_us", label="time", unit="µs", group="key on the other side"),
        *heads("default_us best_us"),
    ]
    return or_note(frame, Table(frame, columns), "Nothing to show: no M between the tuned ones was measured.")


def shipped(frame: pd.DataFrame, best: pd.DataFrame) -> Table | Note:
    """Return how long other projects' tiles take in our kernel (``analysis.tuning.shipped``, ``chosen``)."""
    shown, w13 = tiles.split(frame, "w13", 6)
    shown, w2 = tiles.split(shown, "w2", 6)
    theirs = [replace(column, theirs=True) for column in (*w13, *w2)]
    columns = [*heads("M release us chosen_us slower_pct"), *theirs]
    sentence = (
        "No tiles that others ship were measured: where the tuning ran there was no release with a file for these "
        "sizes and this GPU. Get one with `moe-lab peers add vllm==0.15.0` before tuning."
    )
    return or_note(shown, Table(shown, columns), _NOTHING if best.empty else sentence)


def failures(rows: pd.DataFrame) -> Table | Note:
    """Return the run's tiles that could not be compiled or run, and why."""
    wrong = rows[rows["error"].notna()]
    shown = wrong.assign(tile=wrong["w13"].fillna(wrong["w2"]))[["phase", "M", "part", "tile", "error"]]
    columns = [*heads("phase", label="step"), *heads("M part tile error")]
    return or_note(
        shown,
        Table(shown, columns),
        _NOTHING if rows.empty else "Every tile that was tried compiled, ran and was right.",
    )
