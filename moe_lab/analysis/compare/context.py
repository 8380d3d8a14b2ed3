# SPDX-License-Identifier: Apache-2.0
"""What else differs between two runs: GPU, clocks, problem, versions. It is said before any time."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from moe_lab.analysis.captures import gpu_facts, short_gpu
from moe_lab.runs import Run

GPU, CLOCKS, PROBLEM, VERSIONS = "GPU", "clocks", "problem", "versions"
COLUMNS = ["about", "fact", "a", "b"]
CLOCKS_APART_PCT = 2.0  # of a clock that is measured: less is how it wanders within a run
_WORKLOAD = (
    *("workload", "model", "phase", "M", "batch", "input_len", "context", "format", "backend", "align", "graph"),
    *("routing", "experts_hit", "rows_padded", "seed"),
)
_MEASURED = {"sm_mhz": 1.0, "memory_mhz": 1.0, "sm_clock_hz": 1e-6, "dram_clock_hz": 1e-6}  # column -> to MHz


def named(runs: tuple[Run, Run]) -> tuple[str, str]:
    """Return the names of two runs, each with its date if that is known."""
    one, other = (
        f"{run.manifest['name']}" + (f" ({str(run.manifest['date'])[:10]})" if run.manifest.get("date") else "")
        for run in runs
    )
    return one, other


def differences(a: Run, b: Run, seen: tuple[pd.DataFrame, pd.DataFrame], metas: Any = ({}, {})) -> pd.DataFrame:
    """Return what two runs state differently.

    Args:
        a: one run.
        b: the other.
        seen: their rows or operations, for clocks that were measured and releases of peers.
        metas: ``Launches.meta`` of captures, for a GPU that only the report states.

    Returns:
        ``COLUMNS``: about (``GPU``, ``CLOCKS``, ``PROBLEM`` or ``VERSIONS``), fact, and its value in each, as text;
        a fact that only one states counts if it is of the GPU or the problem.
    """
    own = [_facts(run, table, meta) for run, table, meta in zip((a, b), seen, metas, strict=True)]
    rows = []
    for key in dict.fromkeys([*own[0], *own[1]]):
        one, other = (side.get(key) for side in own)
        if _apart(key[0], one, other):
            rows.append([*key, _text(one), _text(other)])
    return pd.DataFrame(rows, columns=COLUMNS, dtype="string")


def _apart(about: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return about in (GPU, PROBLEM) and one is not other
    if about == CLOCKS:
        return abs(float(one) - float(other)) > CLOCKS_APART_PCT / 100 * float(one)
    return bool(one != other)


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:,.0f}" if isinstance(value, float) else str(value)


def _facts(run: Run, table: pd.DataFrame, meta: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    manifest = run.manifest
    gpu, workload = gpu_facts(run, meta), manifest.get("workload") or {}
    facts: dict[tuple[str, str], Any] = {(GPU, "GPU"): short_gpu(gpu.get("name"))}
    facts[(GPU, "multiprocessors")] = gpu.get("sm_count")
    stated = gpu.get("clocks_mhz") or {}
    facts |= {(CLOCKS, f"{name} clock, MHz"): stated.get(key) for name, key in (("SM", "sm"), ("memory", "mem"))}
    facts |= {(CLOCKS, name): value for name, value in _clocks(table)}
    facts |= {(PROBLEM, key): workload.get(key) for key in _WORKLOAD if not isinstance(workload.get(key), list)}
    # Of cases that agree in everything else, such as those of gpt-oss by backends that add biases and others.
    if "biases" in table and table["biases"].eq(True).any():
        facts[PROBLEM, "biases"] = "yes"
    versions = dict(manifest.get("versions") or {})
    tool = manifest.get("tool") or {}
    # ncu runs kernels one by one, at other clocks and with other caches than a timeline.
    facts |= {(PROBLEM, "measured by"): None if manifest.get("bench") else tool.get("name")}
    facts |= {(VERSIONS, name): value for name, value in versions.items()}
    facts |= {(VERSIONS, str(tool.get("name"))): tool.get("version")} if not manifest.get("bench") else {}
    return facts | {(VERSIONS, name): value for name, value in _releases(table)}


def _clocks(table: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Yield the medians of clocks that were measured beside the rows, MHz."""
    for column, scale in _MEASURED.items():
        if column in table and table[column].notna().any():
            name = "SM" if column.startswith("sm") else "memory"
            yield f"{name} clock measured, MHz", float(table[column].astype("Float64").median()) * scale


def _releases(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield the releases of peers that a benchmark ran."""
    if not {"version", "backend"} <= set(table):
        return
    known = table.dropna(subset=["version"])
    for backend, versions in known.groupby("backend")["version"]:
        yield str(backend), ", ".join(dict.fromkeys(map(str, versions)))


def constants(a: pd.DataFrame, b: pd.DataFrame, keys: list[str], fixed: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the keys of which each run has one value, and the runs different ones: they cannot align rows.

    Args:
        a: one side.
        b: the other.
        keys: columns that align.
        fixed: keys that must align even so.

    Returns:
        ``COLUMNS``, about ``PROBLEM``.
    """
    rows = []
    for key in keys:
        # A row that does not state a key differs from one that does.
        stated = (side.reindex(columns=[key])[key].astype("object") for side in (a, b))
        one, other = (list(dict.fromkeys(values.where(values.notna(), None))) for values in stated)
        if len(one) == len(other) == 1 and one != other and key not in fixed:
            rows.append([PROBLEM, key, _text(one[0]), _text(other[0])])
    return pd.DataFrame(rows, columns=COLUMNS, dtype="string")
