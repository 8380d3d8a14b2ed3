# SPDX-License-Identifier: Apache-2.0
"""The plain facts of an Nsight Systems export: tool, schema, GPU, graph mode; nothing about the machine or its user."""

from datetime import date
from typing import Any

from moe_lab.runs.parse import _facts
from moe_lab.runs.parse._sqlite import Database
from moe_lab.runs.redact.names import is_telling
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

NEWEST_SCHEMA = (3, 25)
# Ours -> column of TARGET_INFO_GPU.
GPU_FACTS = {
    "name": "name",
    "chip": "chipName",
    "sm_count": "smCount",
    "memory_bytes": "totalMemory",
    "l2_bytes": "l2CacheSize",
    "memory_bandwidth_bytes_per_s": "memoryBandwidth",
    "clock_hz": "clockRate",
    "warp_threads": "threadsPerWarp",
    "max_warps_per_sm": "maxWarpsPerSm",
    "max_blocks_per_sm": "maxBlocksPerSm",
    "max_registers_per_sm": "maxRegistersPerSm",
    "max_smem_per_sm_bytes": "maxShmemPerSm",
    "max_smem_per_block_bytes": "maxShmemPerBlockOptin",
}


def facts(database: Database) -> dict[str, Any]:
    """Return tool, schema, gpu, gpu_count, graph_mode, driver, date, cuda and warnings (a list of sentences)."""
    if not any(database.table(t) for t in ("META_DATA_EXPORT", "EXPORT_META_DATA", "CUPTI_ACTIVITY_KIND_KERNEL")):
        raise UserError(
            f"{database.path.name} is an SQLite file but not an export of Nsight Systems; "
            "make one with `nsys export --type=sqlite -o run.sqlite run.nsys-rep`."
        )
    exported = _pairs(database, "META_DATA_EXPORT") or _pairs(database, "EXPORT_META_DATA")
    captured = _pairs(database, "META_DATA_CAPTURE")
    system = _pairs(database, "TARGET_INFO_SYSTEM_ENV")
    gpus, left_out = _gpus(database)
    schema = exported.get("EXPORT_SCHEMA_VERSION")
    modes = sorted({v for k, v in captured.items() if k.endswith("CUDA_GRAPH_TRACE_OPTIONS:MODE") and v})
    return _facts.facts(
        "nsys",
        exported.get("EXPORT_PRODUCT_VERSION"),
        schema=schema,
        gpu=gpus[0] if gpus else None,
        gpu_count=len(gpus) or None,
        graph_mode="+".join(modes) or None,
        driver=system.get("NvDriverVersion") or None,
        date=_date(database),
        cuda=_facts.cuda_version(_facts.number(system.get("CudaDriverVersion"), range(1, 10**6))),
        warnings=_schema_warning(schema) + left_out,
    )


def graph_level_replays(database: Database) -> int:
    """Return how many graph replays were recorded as a whole, without their kernels."""
    table = database.table("CUPTI_ACTIVITY_KIND_GRAPH_TRACE")
    return database.count(table) if table else 0


def hosts(database: Database) -> list[str]:
    """Return the names of the machines that profiled and exported, so that they can be taken out of strings."""
    found: set[str] = set()
    for table in ("META_DATA_EXPORT", "EXPORT_META_DATA", "TARGET_INFO_SYSTEM_ENV"):
        if {"name", "value"} <= set(database.tables.get(table, ())):
            query = f"SELECT value FROM {table} WHERE lower(name) IN ('export_host', 'hostname')"
            found |= {str(v) for (v,) in database.rows(query) if v}
    return sorted(filter(is_telling, found), key=len, reverse=True)


def _pairs(database: Database, table: str) -> dict[str, str]:
    """Return the wanted rows of a name-value table: versions and the graph mode, never the environment."""
    if not {"name", "value"} <= set(database.tables.get(table, ())):
        return {}
    wanted = "name LIKE '%VERSION' OR name LIKE '%CUDA_GRAPH_TRACE_OPTIONS:MODE'"
    return {
        str(k): entry.one_line(str(v), 100)
        for k, v in database.rows(f"SELECT name, value FROM {table} WHERE {wanted}")
        if v is not None
    }


def _gpus(database: Database) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (facts of every GPU, a sentence if some cannot be true and are left out)."""
    present = database.tables.get("TARGET_INFO_GPU", ())
    asked = {ours: column for ours, column in GPU_FACTS.items() if column in present}
    if not asked:
        return [], []
    extra = [c for c in ("computeMajor", "computeMinor") if c in present]
    gpus = []
    wrong: set[str] = set()
    columns = [*asked.values(), *extra]
    for row in database.rows(f"SELECT {', '.join(columns)} FROM TARGET_INFO_GPU ORDER BY rowid"):
        known = {c: _fact(c, v) for c, v in zip(columns, row, strict=True)}
        wrong |= {c for c, v in zip(columns, row, strict=True) if v is not None and known[c] is None}
        gpu: dict[str, Any] = dict.fromkeys(GPU_FACTS) | {ours: known[c] for ours, c in asked.items()}
        gpu["compute_capability"] = _facts.capability(known.get("computeMajor"), known.get("computeMinor"))
        gpus.append(gpu)
    said = f"TARGET_INFO_GPU has values of {', '.join(sorted(wrong))} that cannot be true; they are left out."
    return gpus, [said] if wrong else []


def _fact(column: str, value: Any) -> str | int | None:
    """Return a fact of a GPU, None if it has the wrong type or size."""
    if column in ("name", "chipName"):
        plain = isinstance(value, str) and 0 < len(value) <= entry.NAME_LENGTH and entry.visible(value) == value
        return value if plain else None
    return value if isinstance(value, int) and 0 <= value < 2**53 else None


def _date(database: Database) -> str | None:
    """Return the day of the capture, ``2026-08-01``; the table holds one row."""
    if "utcTime" not in database.tables.get("TARGET_INFO_SESSION_START_TIME", ()):
        return None
    rows = database.rows("SELECT substr(utcTime, 1, 10) FROM TARGET_INFO_SESSION_START_TIME LIMIT 1")
    try:
        return date.fromisoformat(str(rows[0][0])).isoformat() if rows else None
    except ValueError:
        return None


def _schema_warning(schema: str | None) -> list[str]:
    try:
        major, minor = (entry.integer(part, range(10**6)) for part in (schema or "").split(".")[:2])
    except ValueError:
        return ["The report does not say which schema version it has; it was read by the columns that are there."]
    if (major, minor) > NEWEST_SCHEMA:
        newest = ".".join(map(str, NEWEST_SCHEMA))
        return [
            f"Schema {schema} is newer than {newest}, the newest one tested; it was read by the columns that are there."
        ]
    return []
