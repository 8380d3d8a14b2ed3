# SPDX-License-Identifier: Apache-2.0
"""torch.profiler (Kineto): a Chrome-trace JSON, plain or gzip, to launches."""

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from moe_lab.runs.attribution.assemble import assemble
from moe_lab.runs.parse import _doubts, _facts
from moe_lab.runs.parse.kineto import chrome, file
from moe_lab.runs.parse.kineto import events as kineto
from moe_lab.runs.parse.kineto.join import Join
from moe_lab.runs.parse.kineto.slim import GPU_FACTS, gpus_of, rank_of
from moe_lab.runs.parse.kineto.slim import slim as slim
from moe_lab.runs.parse.kineto.values import integer
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

INFO = {
    "about": "trace of torch.profiler (Kineto), .json or .json.gz",
    "report": "report.json.gz",
}

_EVENTS = re.compile(r'"traceEvents"|^\s*\[\s*\{')
_KINETO = re.compile(
    r'"(?:schemaVersion|deviceProperties|baseTimeNanoseconds)"\s*:'
    r'|"cat"\s*:\s*"(?i:cpu_op|operator|kernel|user_annotation|cuda_runtime|runtime|python_function)"'
)
_PROPERTIES = re.compile(r'"schemaVersion"\s*:.*"deviceProperties"\s*:', re.DOTALL)
MOST_NS = 2**61  # sums of durations stay within 64 bits
NO_CAPTURES = (
    "{} operations of CUDA graphs are attributed to the range around the replay only: torch.profiler does not record "
    "in which range a graph's kernels were captured; use nsys to get their stages."
)


def sniff(path: Path) -> bool:
    """Return whether the beginning of the file looks like a trace of Kineto."""
    text = file.head(path)
    return bool((_EVENTS.search(text) and _KINETO.search(text)) or _PROPERTIES.search(text))


def parse(path: Path) -> Launches:
    """Read a trace of torch.profiler.

    User annotations (``record_function``) and, where the trace has stacks, calls of nn.Module are the ranges; a trace
    without either has PyTorch's operators as ranges. The kernels of a replayed CUDA graph belong to the range around
    the replay, since Kineto does not record where they were captured.

    The columns smem_static_bytes and smem_dynamic_bytes are NA; an extra column ``smem_bytes`` has their sum.

    Raises:
        UserError: it is not such a file, is truncated, or holds no GPU kernels.
    """
    path = Path(path)
    with file.reading(path):
        return _parsed(path)


def _parsed(path: Path) -> Launches:
    header: dict[str, Any] = {}
    tables = kineto.read(chrome.events(path, header))
    if not len(tables.operations[0]):
        raise UserError(
            f"{path.name} contains no GPU kernels; profile with ProfilerActivity.CUDA, and make sure that the profiled "
            "process itself runs the GPU work (torch.profiler does not see other processes)."
        )
    joined = Join(tables)
    operations = joined.operations()
    if float(np.maximum(operations.end - operations.start, 0).astype(float).sum()) >= MOST_NS:
        raise file.Damaged("the durations of its GPU operations add up to more than 100 years")
    operations, doubts = _doubts.mended(operations)
    meta = _meta(header, joined, [*_doubtful(tables, joined), *_doubts.negative(operations), *doubts])
    return assemble(operations, joined.calls(), joined.ranges(), None, meta, "")


def _doubtful(tables: kineto.Tables, joined: Join) -> list[str]:
    """Return sentences on what the trace lacks or leaves open."""
    owners, said = joined.owners, []
    if joined.graph.any():
        said.append(NO_CAPTURES.format(int(joined.graph.sum())))
    if len(joined.empty):
        names = [list(tables.calls.names)[tables.calls.code[i]] for i in joined.empty[:1].tolist()]
        api = "HIP" if names[0].startswith("hip") else "CUDA"
        said.append(_doubts.without_kernels(len(joined.empty), api, "trace them with the profiler of the GPU's maker"))
    if owners.shared:
        said.append(
            f"{owners.shared} GPU operations have a correlation id that several processes use: the process "
            f"of {owners.shared - owners.unknown} follows from GPU, time or place in the file, {owners.unknown} are "
            "unattributed; give one trace per process to be sure."
        )
    if owners.repeated:
        said.append(
            f"{owners.repeated} GPU operations have a correlation id that their process uses several times: they are "
            "unattributed; give one trace per process."
        )
    if tables.partial:
        said.append(f"{tables.partial} GPU operations have no duration (no complete events): they are left out.")
    if not (len(tables.annotations) or len(tables.modules)):
        said.append(
            "The trace has no user annotations: PyTorch's operators are the ranges; mark stages with "
            "torch.profiler.record_function."
        )
    return said


def _meta(header: dict[str, Any], joined: Join, warnings: list[str]) -> dict[str, Any]:
    """Return the plain facts of the trace."""
    gpus = gpus_of(header)
    operation = joined.operation
    used = int(operation["device"][0])
    own = next((g for g in gpus if g.get("id") == used), gpus[0] if gpus else None)
    schema = header.get("schemaVersion")
    alone = len(set(joined.process.tolist()) - {-1}) < 2  # of several processes the header describes at most one
    return _facts.facts(
        "torch.profiler",
        rank=rank_of(header) if alone else None,
        schema=str(schema) if integer(schema) >= 0 else None,
        gpu=_gpu(own) if own else None,
        gpu_count=len(gpus) or None,
        graph_mode="Node" if joined.graph.any() else None,
        date=_date(header.get("baseTimeNanoseconds"), int(operation["start"][0])),
        cuda=_facts.cuda_version(header.get("cuda_runtime_version")),
        warnings=warnings,
    )


def _gpu(properties: dict[str, Any]) -> dict[str, Any]:
    gpu: dict[str, Any] = {ours: properties.get(theirs) for ours, theirs in GPU_FACTS.items()}
    threads, warp = properties.get("maxThreadsPerMultiprocessor"), properties.get("warpSize")
    gpu["max_warps_per_sm"] = threads // warp if threads is not None and warp else None
    gpu["compute_capability"] = _facts.capability(properties.get("computeMajor"), properties.get("computeMinor"))
    return gpu


def _date(base: Any, start: int) -> str | None:
    """Return the day of ``base`` + ``start``, in ns since 1970; None for a clock that does not count from 1970."""
    seconds = (max(integer(base), 0) + start) / 1e9
    if not 1e9 < seconds < 1e10:  # from 2001 to 2286
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
