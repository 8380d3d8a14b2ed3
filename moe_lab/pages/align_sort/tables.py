# SPDX-License-Identifier: Apache-2.0
"""Tables of the align notebook: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published

_SIZE = heads("tokens E topk")


def rivals(frame: pd.DataFrame, ours: str) -> Table | Note:
    """Return in how many cases ``ours`` is ahead of each rival, and by how much (``analysis.align.rivals``)."""
    cases, speed = f"cases in which {ours} is", f"how many times as fast {ours} is"
    columns = [
        *heads("rival cells"),
        *heads("ahead even behind", group=cases),
        *heads("least_speedup mean_speedup most_speedup", group=speed),
    ]
    return or_note(frame, Table(frame, columns), f"Nothing to show: no case of {ours} and another algorithm.")


def behind(frame: pd.DataFrame, ours: str) -> Table | Note:
    """Return every case in which another algorithm is ahead of ``ours`` (``analysis.align.behind``)."""
    columns = [
        *_SIZE,
        *heads("block_m routing"),
        *heads("rival", label="quickest"),
        *heads("theirs_us"),
        *heads("ours_us", label=ours),
        *heads("lost_us", digits=2),
        *heads("lost_pct"),
    ]
    some = f"Every case in which another algorithm is ahead of {ours}, the largest loss first"
    none = f"There is no case in which another algorithm is ahead of {ours}."
    return or_note(frame, Table(frame, columns, some), none)


def peers(frame: pd.DataFrame, ours: str, baseline: str) -> Table | Note:
    """Return ours and the baseline beside figures measured elsewhere (``analysis.align.beside_peers``)."""
    here, elsewhere = "this run", "elsewhere"
    columns = [
        *_SIZE,
        *heads("baseline_us", label=baseline, group=here),
        *heads("ours_us", label=ours, digits=1, group=here),
        *heads("empty_us speedup speedup_net", digits=1, group=here),
        *(Column(key, label, "µs", 1, elsewhere, theirs=True) for key, label in published.ALIGN_PEERS.items()),
    ]
    missing = f"Nothing to show: no size that was also measured elsewhere with both {ours} and {baseline}."
    return or_note(frame, Table(frame, columns), missing)


def modes(frame: pd.DataFrame) -> Table | Note:
    """Return the ways of calling side by side (``analysis.align.modes``)."""
    keys = [str(key).split("|") for key in frame.columns if "|" in str(key)]
    order = ("graph", "eager", "eager+allocation")
    # Modes that are not known here come last.
    keys = sorted(keys, key=lambda k: (k[0], order.index(k[1]) if k[1] in order else 9))
    columns = heads("tokens")
    columns += [
        Column("|".join(key), key[1].replace("eager+allocation", "allocating"), "µs", 1, key[0]) for key in keys
    ]
    odd = "odd" in frame and any(map(bool, frame["odd"]))
    caption = "Marked (?): more than twice both neighbours in tokens, so probably disturbed." if odd else ""
    return or_note(frame, Table(frame, columns, caption), "Nothing to show: no rows of these algorithms and sizes.")


def amd() -> Table:
    """Return the published counters of the multi-block align & sort on AMD."""
    columns = heads("kernel")
    columns += heads("vgprs sgprs active_cus l1_hit_pct coalescing_pct l1_utilisation_pct cycles_k", digits=0)
    return Table(published.align_amd(), columns)


def amd_source() -> Note:
    """Return the source of the published counters, what else it states, and what may be compared."""
    source = published.ALIGN_AMD
    speed = f"Published speed-ups over the earlier two kernels: {source.also['speedups']}"
    told = source.also["multi_block"]
    told = f"{told[:1].upper()}{told[1:]}"
    return Note(f"{source.label} ({source.setup}). {told}. {speed}. It is {source.caveat}.")


def counters(frame: pd.DataFrame, missing: str) -> Table | Note:
    """Return hardware counters (``analysis.align_steps.counters``); without rows the sentence ``missing``."""
    columns = [
        *heads("algorithm"),
        *_SIZE,
        *heads("name step"),
        *heads("duration_us", digits=2),
        *heads(
            "cycles_elapsed grid_blocks active_sms registers_per_thread smem_bytes "
            "smem_bank_conflicts l1_hit_pct l2_hit_pct sectors_per_load_request sectors_per_store_request "
            "dram_read_bytes dram_write_bytes stalls"
        ),
    ]
    return or_note(frame, Table(frame, columns), missing or "The capture has no align call with counters.")
