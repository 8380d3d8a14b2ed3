"""Tables of a tuning: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.pages.show.notes import Note, Tall, or_note
from moe_lab.pages.show.tables import Column, Table

_NOTHING = "Nothing to show: the tuning has no M with a result."


def chosen(frame: pd.DataFrame) -> Table | Note:
    """Return the tiles of each M.

    Args:
        frame: as ``analysis.tuning.chosen`` returns it.
    """
    own, one, found = "backend's own tile", "one tile for both", "the search"
    columns = [
        Column("M", "M", "tokens", 0),
        Column("w13", "w13"),
        Column("w2", "w2"),
        Column("us", "time", "µs", 1),
        Column("default_us", "time", "µs", 1, own),
        Column("gain_pct", "saved", "%", 1, own),
        Column("one", "tile", group=one),
        Column("one_pct", "costs", "%", 1, one),
        Column("tried", "tried", "tiles", 0, found),
        Column("failed", "failed", "tiles", 0, found),
        Column("over_seen_pct", "over the best seen", "%", 1, found),
    ]
    caption = "Tiles: block_m x block_n x block_k x group_m x num_warps x num_stages."
    return or_note(frame, Table(frame, columns, caption), _NOTHING)


def landscape(frame: pd.DataFrame) -> Table | Note:
    """Return the tiles that were measured at one M, the quickest first.

    Args:
        frame: as ``analysis.tuning.landscape`` returns it.
    """
    columns = [
        Column("part", "GEMM"),
        Column("tile", "tile"),
        Column("us", "time", "µs", 1),
        Column("over_best", "over the best", "times", 2),
        Column("round", "reached round", digits=0),
    ]
    return or_note(frame, Tall(frame, columns), _NOTHING)


def between(frame: pd.DataFrame) -> Table | Note:
    """Return what the nearest key costs at Ms between the tuned ones.

    Args:
        frame: as ``analysis.tuning.between`` returns it.
    """
    columns = [
        Column("M", "M", "tokens", 0),
        Column("nearest", "M", "tuned", 0, "nearest key"),
        Column("nearest_us", "time", "µs", 1, "nearest key"),
        Column("cost_pct", "costs", "%", 1, "nearest key"),
        Column("other", "M", "tuned", 0, "key on the other side"),
        Column("other_us", "time", "µs", 1, "key on the other side"),
        Column("default_us", "backend's own tile", "µs", 1),
        Column("best_us", "best of all measured there", "µs", 1),
    ]
    return or_note(frame, Table(frame, columns), "Nothing to show: no M between the tuned ones was measured.")


def shipped(frame: pd.DataFrame, best: pd.DataFrame) -> Table | Note:
    """Return what the tiles of other projects take in our kernel.

    Args:
        frame: as ``analysis.tuning.shipped`` returns it.
        best: as ``analysis.tuning.chosen`` returns it.
    """
    columns = [
        Column("M", "M", "tokens", 0),
        Column("release", "shipped by"),
        Column("w13", "w13", theirs=True),
        Column("w2", "w2", theirs=True),
        Column("us", "time", "µs", 1),
        Column("chosen_us", "tuned here", "µs", 1),
        Column("slower_pct", "slower", "%", 1),
    ]
    sentence = (
        "No tiles that others ship were measured: where the tuning ran there was no release with a file for these "
        "sizes and this GPU. Get one with `moe-lab peers add vllm==0.15.0` before tuning."
    )
    return or_note(frame, Tall(frame, columns), _NOTHING if best.empty else sentence)


def failures(rows: pd.DataFrame) -> Table | Note:
    """Return the tiles that could not be compiled or run, and why.

    Args:
        rows: of the run.
    """
    wrong = rows[rows["error"].notna()]
    shown = wrong.assign(tile=wrong["w13"].fillna(wrong["w2"]))[["phase", "M", "part", "tile", "error"]]
    columns = [
        Column("phase", "step"),
        Column("M", "M", "tokens", 0),
        Column("part", "GEMM"),
        Column("tile", "tile"),
        Column("error", "error", wrap=True),
    ]
    return or_note(
        shown,
        Tall(shown, columns),
        _NOTHING if rows.empty else "Every tile that was tried compiled, ran and was right.",
    )
