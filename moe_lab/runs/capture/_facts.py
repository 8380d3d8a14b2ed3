# SPDX-License-Identifier: Apache-2.0
"""What every capture does besides tracing: check the command, and record what ran on which machine."""

import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from moe_lab import __version__
from moe_lab.runs.capture._tools import find_tool, output
from moe_lab.spec.errors import UserError


def check_command(workload: Sequence[str], tool: str) -> None:
    """Raise UserError if there is no command, or its executable is not found."""
    if not workload:
        raise UserError(
            f"There is no command to profile; put it after '--': moe-lab capture {tool} --name X -- python ..."
        )
    if shutil.which(workload[0]) is None:
        raise UserError(f"The command '{workload[0]}' was not found; check its spelling or give its path.")


def default_window(workload: Sequence[str]) -> str:
    """Return ``profiler-api`` for moe_lab's own workload, which marks its measured part, else ``all``."""
    return "profiler-api" if ours(workload) else "all"


def ours(command: Sequence[str]) -> bool:
    """Return whether a command runs moe_lab's own workload, with or without a profiler around it."""
    return any(part in ("moe_lab.gpu", "moe_lab/gpu/__main__.py") for part in command)


def describe(
    tool: str, version: str | None, flags: Sequence[str], workload: Sequence[str], said: Path
) -> dict[str, Any]:
    """Return what is known of a capture; ``import_report`` redacts it and adds what the report says.

    ``flags`` are the options of the tool; ``said`` is the file in which our own workload describes itself.
    """
    own: dict[str, Any] | None = dict(json.loads(said.read_text())) if said.exists() else None
    versions = dict((own or {}).get("versions", {}))
    gpu = dict((own or {}).get("gpu") or {})
    clocks = _clocks()
    if clocks:
        gpu["clocks_mhz"] = clocks
    return {
        "tool": {"name": tool, "version": version, "options": list(flags)},
        "command": list(workload),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "gpu": gpu,
        "versions": {"driver": driver_version(), **versions, "moe_lab": __version__},
        "workload": own,
    }


def driver_version() -> str | None:
    """Return the NVIDIA driver's version, or None without one."""
    return _query("driver_version")


def gpu_name() -> str | None:
    """Return the name of the first NVIDIA GPU, or None without one."""
    return _query("name")


def compute_capability() -> str | None:
    """Return the compute capability of the first NVIDIA GPU, such as ``9.0``, or None where the driver does not say."""
    return _query("compute_cap")


def _query(field: str) -> str | None:
    smi = find_tool("nvidia-smi")
    text = output([str(smi), f"--query-gpu={field}", "--format=csv,noheader,nounits"]) if smi else None
    # One line per GPU.
    return text.strip().splitlines()[0].strip() if text and text.strip() else None


def _clocks() -> dict[str, int]:
    """Return the SM and memory clocks in MHz just after the capture, and the highest SM clock that the card allows."""
    fields = {"sm": "clocks.sm", "sm_max": "clocks.max.sm", "mem": "clocks.mem"}
    values = (_query(",".join(fields.values())) or "").split(",")
    # A card that does not tell a clock has "[N/A]" in its place.
    return {k: int(v) for k, v in zip(fields, values, strict=False) if v.strip().isdigit()}
