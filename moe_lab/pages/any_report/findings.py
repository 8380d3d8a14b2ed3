# SPDX-License-Identifier: Apache-2.0
"""What a report says about its GPUs, kernels and gaps, as sentences rendered from tables."""

import pandas as pd

from moe_lab.analysis.overview import OTHER
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, caution, percent, time

COPIES_PCT = 5.0  # of the span; less is not worth a word
MUCH = 0.4  # of the time between launches: what lies before one operation is worth a sentence
SHOWN = 40  # characters of its name


def all_of(
    devices: pd.DataFrame, roles: pd.DataFrame, sizes: pd.DataFrame, waits: pd.DataFrame, notes: list[str]
) -> list[Finding]:
    """Say how busy the GPU was, what took its time, what lay between kernels, and what the report lacks.

    ``devices``, ``sizes`` and ``waits`` are as from ``analysis.overview``, ``roles`` as from ``kernels.sums`` by role.
    """
    return [
        *(_headline(devices), _roles(roles), *_gaps(devices, sizes), *_waits(waits), *_communication(devices)),
        *map(caution, notes),
    ]


def _headline(devices: pd.DataFrame) -> Finding:
    least = devices.sort_values("busy_pct").iloc[0]
    share = 100 * least["kernel_sum_ms"] / least["span_ms"]
    # Copies keep a GPU busy too; kernels of several streams may add up to more than that.
    copies = f", with kernels only {percent(share)}" if share < least["busy_pct"] - COPIES_PCT else ""
    which = "The GPU" if len(devices) == 1 else f"The least busy of {len(devices)} GPUs"
    busy = f"{percent(least['busy_pct'])} of {time(float(least['span_ms']))}"
    said = f"{which} ran {int(least['kernels']):,} kernels and was busy {busy}{copies}."
    shown = "device kernels kernel_sum_ms busy_ms span_ms gap_ms busy_pct graph_pct"
    return Finding("", said, findings.rows(devices, shown), stake_us=float(least["gap_ms"]) * 1e3)


def _roles(roles: pd.DataFrame) -> Finding:
    named = roles[roles["role"].notna()]
    known = float(named["pct_of_kernels"].sum())
    shown = findings.rows(roles, "role launches total_ms pct_of_kernels")
    if named.empty:
        return Finding("Roles", f"no kernel has a stage or a name that a rule knows; {OTHER} is all.", shown)
    first = named.iloc[0]
    said = f"{first['role']} takes {percent(first['pct_of_kernels'])} of the kernel time; {percent(known)} has a role."
    return Finding("Roles", said, shown, stake_us=float(first["total_ms"]) * 1e3)


def _gaps(devices: pd.DataFrame, sizes: pd.DataFrame) -> list[Finding]:
    if sizes.empty:
        return [Finding("Gaps", "there are none.")]
    # Launch after launch costs the CPU some microseconds; a graph's kernels are launched together.
    short = sizes[sizes["size"].isin(["under 2 us", "2 to 10 us"])]
    total, of = time(float(short["total_ms"].sum())), time(float(sizes["total_ms"].sum()))
    rows = findings.rows(sizes, "size in_graph gaps total_ms")
    said = [Finding("Gaps", f"{total} of {of} lie in gaps of at most 10 us, as between launches.", rows)]
    graph, kernels = float((devices["graph_pct"].fillna(0) * devices["kernels"]).sum()), int(devices["kernels"].sum())
    share = graph / kernels if kernels else 0.0
    some = f"{percent(share)} of the kernels were launched by a graph"
    stake = float(sizes.loc[~sizes["in_graph"].astype(bool), "total_ms"].sum()) * 1e3
    change = "" if share else "launch the kernels of a step by a CUDA graph"
    none = "no kernel was launched by a graph"
    return [*said, Finding("Graphs", f"{some if share else none}.", stake_us=stake, change=change)]


def _waits(waits: pd.DataFrame) -> list[Finding]:
    """Say before which operation most of the time without work lies, if it is more than its share of the gaps."""
    total = float(waits["total_ms"].sum())
    if waits.empty or waits["total_ms"].iloc[0] < MUCH * total:
        return []
    first = waits.iloc[0]
    name = str(first["after"]) if len(str(first["after"])) <= SHOWN else f"{str(first['after'])[:SHOWN]}…"
    lies = f"{percent(100 * first['total_ms'] / total)} of the {time(total)} between launches lies before {name}"
    return [
        Finding(
            "Waits",
            f"{lies}, {int(first['gaps']):,} times.",
            findings.rows(waits, "after gaps total_ms"),
            stake_us=float(first["total_ms"]) * 1e3,
            change=f"look at what the CPU does before it launches {name}",
        )
    ]


def _communication(devices: pd.DataFrame) -> list[Finding]:
    """Say of the GPU that hides least of its communication how long it does nothing else."""
    most = max(devices.to_dict("records"), key=lambda row: row["exposed_ms"])
    if not most["communication_ms"]:
        return []
    of, out = time(float(most["communication_ms"])), time(float(most["exposed_ms"]))
    said = f"GPU {most['device']} communicates for {of}, of which nothing hides {out}."
    rows = findings.rows(devices, "device communication_ms exposed_ms exposed_pct")
    return [Finding("Between GPUs", said, rows, stake_us=float(most["exposed_ms"]) * 1e3)]
