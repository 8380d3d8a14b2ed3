"""``run.json``: what a run is, where it comes from, and what was left out of it."""

from collections.abc import Mapping
from typing import Any

from moe_lab import __version__
from moe_lab.runs import redact
from moe_lab.spec.launches import Launches


def build(
    launches: Launches, name: str, given: Mapping[str, Any], report: str, dropped: list[str], hosts: list[str]
) -> dict[str, Any]:
    """Return ``run.json``: what was given, completed by what the report says; unknown = null.

    Args:
        launches: the report.
        name: ``<gpu>/<run>``.
        given: what the capture knew: tool, command, date, gpu, versions, workload.
        report: file name of the report.
        dropped: what was left out of the report, as sentences.
        hosts: host names to take out of strings.
    """
    meta = launches.meta
    gpu = meta["gpu"] or {}
    facts = {k: gpu.get(k) for k in ("name", "sm_count", "memory_bytes", "compute_capability")}
    workload = given.get("workload")
    versions = {
        "driver": meta.get("driver"),
        "cuda": meta.get("cuda"),
        "torch": None,
        "triton": None,
        "moe_lab": __version__,
    }
    command = list(given.get("command") or [])
    if command:
        dropped = [
            *dropped,
            "In the command, paths are cut to their last component and values whose names look secret are left out.",
        ]
    return {
        "schema": 1,
        "name": name,
        "tool": _tool(_over(meta["tool"], given.get("tool")), hosts),
        "command": redact.command([str(c) for c in command], hosts) or None,
        "date": redact.tree(given.get("date") or meta.get("date"), hosts),
        "gpu": redact.tree(_over(facts, given.get("gpu")), hosts),
        "versions": redact.tree(_over(versions, given.get("versions")), hosts, name="versions"),
        "workload": redact.tree(workload, hosts),
        "report": report,
        "redacted": dropped,
    }


def _tool(tool: dict[str, Any], hosts: list[str]) -> dict[str, Any]:
    """Return the profiler's facts; its options are a command line."""
    options = {"options": redact.command([str(o) for o in tool["options"]], hosts)} if tool.get("options") else {}
    return {**redact.tree({k: v for k, v in tool.items() if k != "options"}, hosts), **options}


def _over(facts: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**facts, **{k: v for k, v in (given or {}).items() if v is not None}}
