"""Tables of the align notebook: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.pages.show.notes import Note, Tall, or_note
from moe_lab.pages.show.tables import Column, Table
from moe_lab.spec import published

_SIZE = [Column("tokens", "tokens", digits=0), Column("E", "experts", digits=0), Column("topk", "topk", digits=0)]


def rivals(frame: pd.DataFrame, ours: str) -> Table | Note:
    """Return one row a rival: in how many cases ours is ahead, even or behind, and by how much.

    Args:
        frame: as ``analysis.align.rivals`` returns it.
        ours: the algorithm that they are set against.
    """
    cases, speed = f"cases in which {ours} is", f"{ours} is so many times as fast"
    columns = [
        Column("rival", "against"),
        Column("cells", "cases", digits=0),
        Column("ahead", "ahead", digits=0, group=cases),
        Column("even", "even", digits=0, group=cases),
        Column("behind", "behind", digits=0, group=cases),
        Column("least_speedup", "least", digits=2, group=speed),
        Column("mean_speedup", "mean", "geometric", 2, speed),
        Column("most_speedup", "most", digits=2, group=speed),
    ]
    return or_note(frame, Table(frame, columns), f"Nothing to show: no case of {ours} and another algorithm.")


def behind(frame: pd.DataFrame, ours: str) -> Table | Note:
    """Return every case in which another algorithm is ahead.

    Args:
        frame: as ``analysis.align.behind`` returns it.
        ours: the algorithm that is behind.
    """
    columns = [
        *_SIZE,
        Column("block_m", "block_m", digits=0),
        Column("routing", "routing"),
        Column("rival", "quickest"),
        Column("theirs_us", "its time", "µs", 2),
        Column("ours_us", ours, "µs", 2),
        Column("lost_us", "lost", "µs", 2),
        Column("lost_pct", "lost", "%", 1),
    ]
    some = f"Every case in which another algorithm is ahead of {ours}, the largest loss first"
    none = f"There is no case in which another algorithm is ahead of {ours}."
    return or_note(frame, Tall(frame, columns, some), none)


def peers(frame: pd.DataFrame, ours: str, baseline: str) -> Table | Note:
    """Return ours and the baseline at the sizes that were measured elsewhere, beside those figures.

    Args:
        frame: as ``analysis.align.beside_peers`` returns it.
        ours: the algorithm.
        baseline: what it is set against.
    """
    here, elsewhere = "this run", "elsewhere"
    columns = [
        *_SIZE,
        Column("baseline_us", baseline, "µs", 1, here),
        Column("ours_us", ours, "µs", 1, here),
        Column("empty_us", "empty kernel", "µs", 1, here),
        Column("speedup", "ratio", "", 1, here),
        Column("speedup_net", "ratio", "net of empty", 1, here),
        *(Column(key, label, "µs", 1, elsewhere, theirs=True) for key, label in published.ALIGN_PEERS.items()),
    ]
    missing = f"Nothing to show: no size that was also measured elsewhere with both {ours} and {baseline}."
    return or_note(frame, Table(frame, columns), missing)


def modes(frame: pd.DataFrame) -> Table | Note:
    """Return the ways of calling side by side.

    Args:
        frame: as ``analysis.align.modes`` returns it.
    """
    keys = [str(key).split("|") for key in frame.columns if "|" in str(key)]
    order = ("graph", "eager", "eager+allocation")
    keys = sorted(keys, key=lambda k: (k[0], order.index(k[1]) if k[1] in order else 9))
    columns = [Column("tokens", "tokens", digits=0)]
    columns += [
        Column("|".join(key), key[1].replace("eager+allocation", "allocating"), "µs", 1, key[0]) for key in keys
    ]
    caption = "Marked (?): more than twice both neighbours in tokens, so probably disturbed." if _any_odd(frame) else ""
    return or_note(frame, Table(frame, columns, caption), "Nothing to show: no rows of these algorithms and sizes.")


def _any_odd(frame: pd.DataFrame) -> bool:
    return "odd" in frame and any(map(bool, frame["odd"]))


def amd() -> Table:
    """Return the published counters of the multi-block align & sort on AMD."""
    columns = [
        Column("kernel", "kernel"),
        Column("vgprs", "VGPRs", digits=0),
        Column("sgprs", "SGPRs", digits=0),
        Column("active_cus", "active CUs", digits=0),
        Column("l1_hit_pct", "L1 hits", "%", 0),
        Column("coalescing_pct", "coalescing", "%", 0),
        Column("l1_utilisation_pct", "L1 utilisation", "%", 0),
        Column("cycles_k", "cycles", "thousand", 0),
    ]
    return Table(published.align_amd(), columns)


def amd_source() -> Note:
    """Return where the published counters are from, what else was said there, and what may be compared."""
    source = published.ALIGN_AMD
    speed = f"Published speed-ups over the earlier two kernels: {published.ALIGN_SPEEDUPS}"
    return Note(
        f"{source.label} ({source.setup}). {_upper(published.ALIGN_AMD_MULTI_BLOCK)}. {speed}. It is {source.caveat}."
    )


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def counters(frame: pd.DataFrame, missing: str) -> Table | Note:
    """Return the hardware counters of a capture.

    Args:
        frame: as ``analysis.align_steps.counters`` returns it.
        missing: what to say if it has no rows.
    """
    columns = [
        Column("algorithm", "algorithm"),
        *_SIZE,
        Column("name", "kernel", wrap=True),
        Column("step", "does"),
        Column("duration_us", "time", "µs", 2),
        Column("cycles_elapsed", "cycles", digits=0),
        Column("grid_blocks", "grid_blocks", "blocks", 0),
        Column("active_sms", "active SMs", digits=0),
        Column("registers_per_thread", "registers", "per thread", 0),
        Column("smem_bytes", "shared memory", "bytes a block", 0),
        Column("smem_bank_conflicts", "bank conflicts", digits=0),
        Column("l1_hit_pct", "L1 hits", "%", 0),
        Column("l2_hit_pct", "L2 hits", "%", 0),
        Column("sectors_per_load_request", "sectors", "a load", 1),
        Column("sectors_per_store_request", "sectors", "a store", 1),
        Column("dram_read_bytes", "read", "bytes of DRAM", 0),
        Column("dram_write_bytes", "written", "bytes of DRAM", 0),
        Column("stalls", "warps wait for", "share of their time", wrap=True),
    ]
    return or_note(frame, Table(frame, columns), missing or "The capture has no align call with counters.")
