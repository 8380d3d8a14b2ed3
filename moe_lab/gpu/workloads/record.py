# SPDX-License-Identifier: Apache-2.0
"""The record of a profiled run: what ran, on what, with which routing, and how long it took."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import triton

import moe_lab
from moe_lab.gpu.align import counted, padded
from moe_lab.gpu.layer import DecoderLayer


def describe(layer: DecoderLayer, options: Mapping[str, Any], times: list[float]) -> dict[str, Any]:
    """Return the record of a run: what ran, on what, with which routing, and how long each iteration took."""
    assert layer.routing is not None
    counts = counted(layer.routing.topk_ids, layer.problem.E)
    tile_rows = getattr(layer.backend, "block_m", lambda problem: 1)(layer.problem)  # 1: it pads nothing
    names = ("model", "phase", "batch", "format", "backend", "graph", "routing", "iterations", "warmup", "seed")
    result = {name: options[name] for name in names}
    if options["routing"].startswith("replay:"):  # a record names no path of the profiled machine
        result["routing"] = "replay:" + Path(options["routing"].partition(":")[2]).name
    return result | {
        "input_len": options["input_len"] if options["phase"] == "prefill" else None,
        "context": options["context"] if options["phase"] == "decode" else None,
        "M": layer.shape.M,
        "align": layer.align,
        "experts_hit": int((counts > 0).sum()),
        "rows_useful": layer.problem.rows_useful,
        "rows_padded": int(padded(counts, tile_rows).sum()),
        "problem": layer.problem.facts(),
        "iteration_ms": times,
    }


def versions() -> dict[str, str | None]:
    """Return the versions that may affect a result; None = not part of this installation."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "moe_lab": moe_lab.__version__,
    }


def gpu(device: str) -> dict[str, Any] | None:
    """Return name, sm_count, memory_bytes and compute_capability of the GPU, or None on the CPU."""
    if device == "cpu":
        return None
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": found.name,
        "sm_count": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "compute_capability": f"{found.major}.{found.minor}",
    }


def finish(result: dict[str, Any], device: str) -> dict[str, Any]:
    """Return a result with versions and GPU, and write it where a capturing parent process asked for it."""
    result |= {"versions": versions(), "gpu": gpu(device)}
    target = os.environ.get("MOE_LAB_WORKLOAD_JSON")
    if target:
        # Not through stdout, which the profiler and the program share.
        temporary = Path(target + ".partial")
        temporary.write_text(json.dumps(result))
        temporary.replace(target)
    return result
