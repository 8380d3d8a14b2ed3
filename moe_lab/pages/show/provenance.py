# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of a page come from: the table at the end of every notebook."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis.amd.runs import Counted
from moe_lab.analysis.captures import gpu_facts, short_gpu
from moe_lab.analysis.phases import Phase
from moe_lab.analysis.roofs import of_kind, of_run
from moe_lab.pages.show import mime
from moe_lab.pages.show.notes import ROOFS, Note, or_note
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.runs import Run, profiles_root
from moe_lab.spec.guard import shipped
from moe_lab.spec.published import Source

_STATED = (
    *("model", "phase", "M", "batch", "input_len", "context", "format", "dtype", "backend", "align", "routing"),
    "iterations",
)


def of(seen: Sequence[Phase | Counted], *published: Source) -> Table | Note:
    """Return the ``table`` of runs whose reports were read, and of figures that others published."""
    return table({one.name: one.run for one in seen}, {one.name: one.launches.meta for one in seen}, published)


def table(
    runs: Mapping[str, Run | None],
    metas: Mapping[str, Mapping[str, Any]] | None = None,
    published: Sequence[Source] = (),
) -> Table | Note:
    """Return what was measured, on what and with what: one row per fact, one column per run or published source.

    ``runs`` maps a purpose to its run, None if there is none; ``metas`` has ``Launches.meta`` of those that were read.
    """
    there = {what: run for what, run in runs.items() if run is not None}
    told = {what: (metas or {}).get(what) or {} for what in there}
    facts = {what: _facts(run, told[what]) for what, run in there.items()}
    facts |= {source.label: {"Figures": "published by others", "Workload": source.setup} for source in published}
    names = list(dict.fromkeys(fact for own in facts.values() for fact in own))
    rows = [{"fact": fact, **{what: own.get(fact) for what, own in facts.items()}} for fact in names]
    frame = pd.DataFrame(rows, columns=["fact", *facts])
    # Facts that no run states are no rows.
    frame = frame[frame[list(facts)].notna().any(axis=1)] if facts else frame
    cards = [_card(run, told[what], what) for what, run in there.items()]
    columns = [*heads("fact"), *(Column(what, what, wrap=True) for what in facts)]
    extra = {mime.PROVENANCE: cards} if cards else {}
    return or_note(frame, Table(frame, columns, extra=extra), "No run was read.")


def _card(run: Run, meta: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return what index and page say of a run; its folder as a path within the folder that has profiles/, or empty."""
    kept, top = run.path.resolve(), profiles_root().resolve().parent
    inside = kept.is_relative_to(top) and kept.is_dir()
    return {
        "phase": what,
        "run": run.manifest.get("name"),
        "gpu": short_gpu(gpu_facts(run, meta).get("name")),
        "date": run.manifest.get("date"),
        "command": _command(run.manifest),
        "folder": kept.relative_to(top).as_posix() if inside else "",
        "files": sorted(p.name for p in kept.iterdir() if p.is_file()) if inside else [],
    }


def _command(manifest: Mapping[str, Any]) -> str | None:
    command = manifest.get("command")
    return " ".join(command) if isinstance(command, list) else command


def _facts(run: Run, meta: Mapping[str, Any]) -> dict[str, str | None]:
    manifest = run.manifest
    versions, tool, rows = manifest.get("versions") or {}, manifest.get("tool") or {}, manifest.get("rows")
    own = {kind: found for kind in ROOFS if (found := of_kind(of_run(run), kind))}
    return {
        "Run": manifest.get("name"),
        "Figures": f"measured; {_origin(run)}",
        "GPU": _hardware(gpu_facts(run, meta), meta.get("machine") or {}),
        "Roofs in the run": _joined([_roof(kind, one["value"]) for kind, one in own.items()]),
        "Driver": versions.get("driver"),
        "Software": _joined([f"{n} {versions[n]}" for n in ("cuda", "torch", "triton", "moe_lab") if versions.get(n)]),
        "Tool": _joined([tool.get("name"), tool.get("version")], " "),
        "Measured": str(manifest.get("date") or "")[:10] or None,  # a day, as everywhere
        "Workload": _workload(manifest.get("workload") or {}),
        "Rows": f"{rows['count']:,}, {rows['failed']:,} of them failed" if rows else None,
        # None where the rows do not say.
        "Came to its end": {True: "yes", False: "no"}.get(rows["complete"]) if rows else None,
        "Command": _command(manifest),
        "Left out of the run": " ".join(manifest.get("redacted") or []) or None,
    }


def _origin(run: Run) -> str:
    folders = {profiles_root(): "run in profiles/", **dict.fromkeys(shipped.profiles(), "run that comes with moe_lab")}
    within = (said for folder, said in folders.items() if run.path.resolve().is_relative_to(folder.resolve()))
    return next(within, "report or folder given")


def _hardware(gpu: Mapping[str, Any], machine: Mapping[str, Any]) -> str | None:
    """Return a GPU's name and sizes; ``machine`` is what rocprof-compute states about an AMD GPU."""
    units, memory, dies = gpu.get("sm_count"), gpu.get("memory_bytes"), machine.get("num_xcd") or 1
    sizes = [f"{units:.0f} {'CUs' if machine else 'SMs'}" if units else None]
    sizes += [f"{dies:.0f} dies" if dies > 1 else None, f"{memory / 2**30:.0f} GiB" if memory else None]
    return _joined([gpu.get("name"), *sizes])


def _roof(kind: str, value: float) -> str:
    what, unit = ROOFS[kind]
    return f"{what} {value / 1e12:.2f} {unit.partition(',')[0]}"


def _workload(workload: Mapping[str, Any]) -> str | None:
    stated = [f"{key} {workload[key]}" for key in _STATED if workload.get(key) is not None]
    launch = {True: "CUDA graph", False: "no CUDA graph", None: None}[workload.get("graph")]
    return _joined([*stated, launch])


def _joined(parts: Sequence[Any], by: str = ", ") -> str | None:
    return by.join(str(part) for part in parts if part) or None
