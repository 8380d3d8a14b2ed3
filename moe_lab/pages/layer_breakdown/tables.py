"""Tables of the layer breakdown: ranges, top kernels, floors of the expert GEMMs, and what was measured."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import phases as layer
from moe_lab.analysis.phases import Phase
from moe_lab.pages.show import mime
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published


def provenance(phases: Sequence[Phase]) -> Table:
    """Return what was measured, on what, with what: one row a fact, one column a phase.

    Args:
        phases: one run a phase.
    """
    facts = [_facts(p) for p in phases]
    frame = pd.DataFrame(
        [{"fact": key, **{p.name: f[key] for p, f in zip(phases, facts, strict=True)}} for key in facts[0]]
    )
    frame = frame[frame[[p.name for p in phases]].notna().any(axis=1)]
    cards = [
        {
            "phase": p.name,
            "run": p.run.manifest.get("name"),
            "gpu": layer.gpu_name(p),
            "date": p.run.manifest.get("date"),
        }
        for p in phases
    ]
    columns = [*heads("fact"), *(Column(p.name, p.name, wrap=True) for p in phases)]
    return Table(frame, columns, extra={mime.PROVENANCE: cards})


def _facts(phase: Phase) -> dict[str, str | None]:
    manifest = phase.run.manifest
    gpu, versions, tool = layer.gpu_facts(phase), manifest.get("versions") or {}, manifest.get("tool") or {}
    memory = gpu.get("memory_bytes")
    hardware = [gpu.get("name"), f"{gpu['sm_count']} SMs" if gpu.get("sm_count") else None]
    hardware.append(f"{memory / 2**30:.0f} GiB" if memory else None)
    stack = [f"{name} {versions[name]}" for name in ("cuda", "torch", "triton", "moe_lab") if versions.get(name)]
    command = manifest.get("command")
    return {
        "Run": manifest.get("name"),
        "GPU": _joined(hardware),
        "Driver": versions.get("driver"),
        "Software": _joined(stack),
        "Profiler": _joined([tool.get("name"), tool.get("version")], " "),
        "Captured": str(manifest.get("date") or "")[:16].replace("T", " ") or None,
        "Workload": _workload(manifest.get("workload") or {}),
        "Command": " ".join(command) if isinstance(command, list) else command,
        "Left out of the run": " ".join(manifest.get("redacted") or []) or None,
    }


def _joined(parts: Sequence[Any], by: str = ", ") -> str | None:
    return by.join(str(p) for p in parts if p) or None


def _workload(workload: dict[str, Any]) -> str | None:
    keys = (
        "model",
        "phase",
        "M",
        "batch",
        "input_len",
        "context",
        "format",
        "dtype",
        "backend",
        "align",
        "routing",
        "iterations",
    )
    stated = [f"{k} {workload[k]}" for k in keys if workload.get(k) is not None]
    launch = {True: "CUDA graph", False: "no CUDA graph"}.get(workload.get("graph"))  # type: ignore[arg-type]
    return _joined([*stated, launch])


def ranges(phase: Phase) -> Table:
    """Return the layer's ranges with times and shares, next to the published ones.

    Args:
        phase: a run seen through one layer.
    """
    frame = layer.beside_published(phase)
    digits = 3 if phase.layer_ms >= 1 else 4
    ours = f"{phase.name}, {layer.gpu_name(phase)}"
    columns = [
        *heads("name", label="range", wrap=False),
        *heads("kernel_sum_ms", digits=digits, group=ours),
        *heads("pct_of_layer", group=ours, bar=100.0),
        *heads("kernels", group=ours),
        *heads("gap_ms", digits=digits, group=ours),
    ]
    if frame["published_ms"].notna().any():
        columns.append(Column("published_ms", "time", "ms", 3, published.L40.label, theirs=True))
        columns.append(Column("published_pct", "of layer", "%", 1, published.L40.label, 100.0, theirs=True))
    return Table(frame, columns)


def kernels(frame: pd.DataFrame, caption: str = "") -> Table:
    """Return the top kernels with their launch geometry.

    Args:
        frame: as ``analysis.kernels.top_kernels`` returns it.
        caption: such as the phase.
    """
    shown = frame.assign(where=frame["path"].map(lambda p: str(p).rsplit("/", 1)[-1]))
    columns = [
        *heads("name where pct_of_root median_us grid_blocks block_threads registers_per_thread"),
        *heads("launches", unit="whole run"),
    ]
    return Table(shown, columns, caption)


def floors(frame: pd.DataFrame) -> Table:
    """Return the least work of the expert GEMMs beside their time.

    Args:
        frame: as ``analysis.floors.floors`` returns it; empty when no run states its problem.
    """
    if frame.empty:
        none = "No run here states its problem and the experts it hit."
        return Table(pd.DataFrame({"note": [none]}), heads("note"))
    least, got, roof = "cannot do with less", "so it ran at", "roof of the memory"
    columns = [
        *heads("phase stage time_ms experts_hit"),
        *heads("minimum_gb useful_gflop useful_flop_per_byte", group=least),
        *heads("minimum_tb_per_s", group=got),
        *heads("useful_tflops_per_s", label="compute", group=got),
        *(*heads("roof_tb_per_s roof", group=roof),),
        *heads("pct_of_roof", group=roof, most=100),
    ]
    return Table(frame, columns)
