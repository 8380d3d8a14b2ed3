# SPDX-License-Identifier: Apache-2.0
"""What a benchmark process writes, as JSON lines: a header with the request and the machine, then one row per line.

``{"complete": true}`` is the last line. Rows are appended as they are measured, so a process that dies loses none.
"""

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from moe_lab.gpu.bench import clock, roofs
from moe_lab.gpu.workloads import record

SCHEMA = 2


def append(file: Any, lines: Iterable[dict[str, Any]]) -> None:
    """Append lines to an open file."""
    file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    file.flush()  # so that they survive a crash of the process


def finished(path: Path) -> list[bytes]:
    """Return the lines of a file, none if it does not exist; an unfinished last line is cut off."""
    whole = path.read_bytes() if path.exists() else b""
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:  # a killed process left half a line, and the next one appends after it
        os.truncate(path, len(kept))
    return kept.splitlines()


def measured(device: torch.device, *dtypes: torch.dtype) -> dict[str, Any]:
    """Return what rows are compared with: ``roofs`` (see ``roofs.measure``) and ``l2`` (see ``clock.verify_cold``)."""
    if device.type == "cpu":
        return {"roofs": {}, "l2": {}}
    found = {"roofs": roofs.measure(device, *dtypes), "l2": clock.verify_cold(device)}
    torch.cuda.empty_cache()  # a quarter of the memory was read
    return found


def header(
    bench: str,
    key: Sequence[str],
    arguments: Sequence[str],
    settings: dict[str, Any],
    device: torch.device,
    against: dict[str, Any],
) -> dict[str, Any]:
    """Return the first line.

    ``key``: columns that together identify a row; ``arguments``: the command line after ``python -m moe_lab.gpu``;
    ``against``: the result of ``measured``.
    """
    return {
        "schema": SCHEMA,
        "bench": bench,
        "key": key,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": (record.gpu(device.type) or {}) | {k: v for k, v in against["roofs"].items() if k == "copy_bytes_per_s"},
        "versions": record.versions() | {"driver": driver()},
        "measured": against,
        "command": ["python", "-m", "moe_lab.gpu", *arguments],
        "settings": settings,
    }


def driver() -> str | None:
    """Return the version of the NVIDIA kernel module, or None."""
    path = Path("/sys/module/nvidia/version")
    return path.read_text().strip() if path.exists() else None
