# SPDX-License-Identifier: Apache-2.0
"""``run.json``: what a run is, where it comes from and what was left out; how it is built, and checked when read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from moe_lab import __version__
from moe_lab.runs import redact
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import conform, decode_json, one_line, plain_name, read_bytes
from moe_lab.spec.launches import Launches

Scalar = str | int | float | bool | None
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Count = Annotated[int, msgspec.Meta(ge=0)]
# Modules in the commands of older runs -> where they are now, so that a command that is shown can be run.
MOVED = {"moe_lab.workload": "moe_lab.gpu"}
Kind = Literal["boolean", "Int64", "Float64", "string", "pairs", "json"]


class Gpu(msgspec.Struct):
    """The GPU, as the report or the measuring process states it."""

    name: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    sm_count: Count | None = None
    memory_bytes: Count | float | None = None
    compute_capability: str | None = None
    copy_bytes_per_s: float | None = None
    clocks_mhz: dict[str, float | None] | None = None


class Tool(msgspec.Struct):
    """The profiler or benchmark that measured."""

    name: str | None = None
    version: str | None = None


class Problem(msgspec.Struct):
    """Sizes of a layer."""

    K: Count
    N: Count
    E: Count
    topk: Count
    M: Count | None = None
    format: str | None = None
    dtype: str | None = None
    quant: str | None = None
    activation: str = "silu"
    biases: bool = False
    shared: Count = 0
    model: str | None = None


class Point(msgspec.Struct):
    """One call of the experts in a workload."""

    root: str
    problem: Problem
    M: Count | None = None
    experts_hit: Count | None = None
    rows_useful: Count | None = None
    rows_padded: Count | None = None
    rows_padded_by_block_m: dict[str, Count] | None = None
    tiles: dict[str, dict[str, int | None]] | None = None


class Workload(msgspec.Struct):
    """What ran, as the workload states it."""

    workload: Scalar = None
    model: str | None = None
    phase: str | None = None
    M: Scalar = None
    backend: Scalar = None
    graph: bool | None = None
    warm: bool | None = None
    problem: Problem | None = None
    experts_hit: Count | None = None
    rows_useful: Count | None = None
    rows_padded: Count | None = None
    points: list[Point] | None = None
    roots: list[str] | None = None


class Rows(msgspec.Struct):
    """What ``rows.write`` returned."""

    count: Count
    columns: dict[str, Kind]
    constants: dict[str, Any]
    names: dict[str, list[str]]
    failed: Count = 0
    complete: bool | None = None


class Manifest(msgspec.Struct):
    """The whole file; fields that are not listed may hold anything."""

    name: Name | None = None
    report: str | None = None
    reports: list[str] | None = None
    bench: str | None = None
    tool: Tool | None = None
    command: list[str] | str | None = None
    date: str | None = None
    gpu: Gpu | None = None
    versions: dict[str, str | None] | None = None
    workload: Workload | None = None
    measured: dict[str, Any] | None = None
    redacted: list[str] | None = None
    hidden: dict[str, Count] | None = None
    rows: Rows | msgspec.UnsetType = msgspec.UNSET
    graph_level: bool | None = None


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a ``run.json``; a missing name of the run or report is filled in.

    Raises:
        UserError: it is missing, not JSON, or has a field of the wrong type.
    """
    try:
        found: dict[str, Any] = decode_json(read_bytes(path), dict[str, Any])
        conform(found, Manifest)
        found.setdefault("name", "/".join(path.parent.resolve().parts[-2:]))
        found["report"] = plain_name(found.get("report") or "report.sqlite", "the report")
        for report in found.get("reports") or []:
            plain_name(report, "a report")
        if isinstance(found.get("command"), list):
            found["command"] = [MOVED.get(part, part) for part in found["command"]]
        if "rows" in found and not found.get("bench"):
            raise ValueError("it has rows, but names no bench")
    except ValueError as error:
        raise UserError(
            f"{one_line(path.parent.name)}/{path.name} cannot be read ({one_line(str(error))}); import or capture the "
            "run again."
        ) from None
    return found


def build(
    launches: Launches, name: str, given: Mapping[str, Any], report: str, dropped: list[str], hosts: list[str]
) -> dict[str, Any]:
    """Return the contents of ``run.json``: what was given, completed from the report; null = not known.

    Args:
        launches: the report.
        name: ``<gpu>/<run>``.
        given: what the capture knew: tool, command, date, gpu, versions, workload.
        report: file name of the report.
        dropped: sentences on what was left out of the report.
        hosts: host names to take out of strings.
    """
    meta = launches.meta
    gpu = meta["gpu"] or {}
    facts = {k: gpu.get(k) for k in ("name", "sm_count", "memory_bytes", "compute_capability")}
    versions = {**{k: meta.get(k) for k in ("driver", "cuda", "torch", "triton")}, "moe_lab": __version__}
    command = list(given.get("command") or [])
    if command:
        said = "In the command, paths are cut to their last component and values whose names look secret are left out."
        dropped = [*dropped, said]
    return {
        "schema": 1,
        "name": name,
        "tool": _tool(_over(meta["tool"], given.get("tool")), hosts),
        "command": redact.command([str(c) for c in command], hosts) or None,
        "date": redact.tree(given.get("date") or meta.get("date"), hosts),
        "gpu": redact.tree(_over(facts, given.get("gpu")), hosts),
        "versions": redact.tree(_over(versions, given.get("versions")), hosts, name="versions"),
        "workload": redact.tree(given.get("workload"), hosts),
        "report": report,
        "redacted": dropped,
    }


def _tool(tool: dict[str, Any], hosts: list[str]) -> dict[str, Any]:
    """Return the redacted facts of the profiler; its options are redacted as a command line."""
    options = {"options": redact.command([str(o) for o in tool["options"]], hosts)} if tool.get("options") else {}
    return {**redact.tree({k: v for k, v in tool.items() if k != "options"}, hosts), **options}


def _over(facts: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**facts, **{k: v for k, v in (given or {}).items() if v is not None}}
