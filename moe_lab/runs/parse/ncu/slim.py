# SPDX-License-Identifier: Apache-2.0
"""A small copy of a counter report: ncu's raw page in base units, with only the metrics that the analysis reads."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_lab.runs import redact
from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.ncu.pages import DEFAULT_DOMAIN, FACTS
from moe_lab.runs.parse.ncu.rows import Named, Profiled
from moe_lab.spec.metrics import BY_NAME

PUSH_POP = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
START_STOP = "Id:Domain:Start/Stop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
FIELDS = ("ID", "Process ID", PUSH_POP, START_STOP, "Kernel Name", "Stream", "Block Size", "Grid Size", "Device", "CC")
DROPPED = (
    "Left out: environment, host, user, process names, paths, and every metric that the analysis does not read.",
    "Process and thread ids are renumbered.",
    "Absolute paths inside range and kernel names are cut to their last component, host names replaced.",
)


def write(rows: Sequence[Profiled], gpu: dict[str, Any], target: Path, keep: Keep | None, hosts: list[str]) -> Slimmed:
    """Write the copy: some kernels and the facts of their GPU, without the ``hosts``; returns as ``Slimmed`` says."""
    kept = list(rows) if keep is None else [rows[i] for i in keep.operations["kernel"].tolist()]
    there = {name: metric for name, metric in BY_NAME.items() if any(name in r.measured for r in kept)}
    # A part of a metric has no unit in our table of metrics.
    units = {name: metric.unit if name in metric.names else "" for name, metric in there.items()}
    texts = {theirs: redact.tree(gpu[ours], hosts) for theirs, ours in FACTS.items() if gpu.get(ours) is not None}
    ids = {r.process for r in kept}, {r.thread for r in kept}
    processes, threads = ({old: new for new, old in enumerate(sorted(own - {-1}), 1)} for own in ids)
    with target.open("w", newline="") as file:
        out = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        out.writerow([*FIELDS, *texts, *units])
        out.writerow([*("" for _ in (*FIELDS, *texts)), *units.values()])
        for number, row in enumerate(kept):
            numbers = processes.get(row.process, 0), threads.get(row.thread, 0)
            fields = _fields(row, number, *numbers, gpu.get("compute_capability"), hosts)
            out.writerow([*fields, *texts.values(), *(_value(row.measured.get(name)) for name in units)])
    return list(DROPPED), hosts


def _fields(row: Profiled, number: int, process: int, thread: int, capability: Any, hosts: list[str]) -> list[Any]:
    stack, free = ("  ".join(_shown(named, hosts) for named in stack) for stack in (row.stack, row.free))
    return [
        number,
        process or "",
        f"{thread or ''}  {stack}" if stack else "",
        f"1  {free}" if free else "",
        redact.text(row.name, hosts),
        row.stream if row.stream >= 0 else "",
        row.block or "",
        row.grid or "",
        row.device if row.device >= 0 else "",
        capability or "",
    ]


def _shown(named: Named, hosts: list[str]) -> str:
    domain = redact.text(named[0] or DEFAULT_DOMAIN, hosts)
    name = redact.text(named[1], hosts).replace('"', "'")
    return f'"{domain}:{name}:none:none:none:none:none:none"'


def _value(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value):
        return str(int(value))
    text = repr(value)
    # 1.234 could be read as 1,234 under another locale (see units.decimal_comma); 1.2340 cannot.
    return f"{text}0" if len(text.partition(".")[2]) == 3 else text
