"""How long the breakdown of a large nsys report takes, and how much memory: builds the report itself, prints a table.

    python benchmarks/attribution.py                       0.1, 1 and 3 million kernels
    python benchmarks/attribution.py --kernels 1000000     one size

The report has two processes with two threads each and colliding correlation ids. One thread repeats an iteration of
67 nested ranges; every kernel comes with 3.1 further API calls (events, capture queries), as PyTorch makes them.
Every measurement is a fresh process: start of Python, imports, parsing and breakdown are inside the time.
"""

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KERNELS_PER_ITERATION = 146
API_PER_KERNEL = 4.1
THREADS = ((0x5101, 0x5101), (0x5101, 0x5177), (0x6202, 0x6202), (0x6202, 0x6290))  # (pid, tid)
NAMES = [f"void gemm_kernel_{i}<float, 128, 64, {i % 8}, Layout<Row, Column>>(Params const*, int, int, float)" for i in range(40)]
API = ["cudaLaunchKernel_v7000", "cudaEventRecord_v3020", "cudaStreamIsCapturing_v10000", "cudaStreamWaitEvent_v3020"]
KERNEL_COLUMNS = """start end deviceId contextId greenContextId streamId correlationId globalPid demangledName shortName mangledName
launchType cacheConfig registersPerThread gridX gridY gridZ blockX blockY blockZ staticSharedMemory dynamicSharedMemory
localMemoryPerThread localMemoryTotal gridId sharedMemoryExecuted graphNodeId sharedMemoryLimitConfig graphId clusterX
clusterY clusterZ""".split()
NVTX_COLUMNS = """start end eventType rangeId category color text globalTid endGlobalTid textId domainId uint64Value int64Value
doubleValue uint32Value int32Value floatValue jsonTextId jsonText binaryData""".split()


def template() -> tuple[list[tuple[int, int, str]], np.ndarray]:
    """Return one iteration: ranges (start, end, name) in ticks, and the ticks of its kernels [KERNELS_PER_ITERATION]."""
    ranges: list[tuple[int, int, str]] = []
    kernels: list[int] = []
    tick = 1
    for layer in range(6):
        first = tick
        tick += 1
        for block, stages in (("self_attn", 3), ("mlp", 5)):
            opened = tick
            tick += 1
            for stage in range(stages):
                leaf = tick
                take = 3 + (stage == 1)
                kernels += range(tick + 1, tick + 1 + take)
                tick += take + 2
                ranges.append((leaf, tick - 1, f"stage_{stage}"))
            ranges.append((opened, tick, block))
            tick += 1
        ranges.append((first, tick, f"layers.{layer}"))
        tick += 2
    while len(kernels) < KERNELS_PER_ITERATION:
        kernels.append(tick)
        tick += 1
    ranges.append((0, tick, "iteration"))
    return ranges, np.array(kernels)


def insert(db: sqlite3.Connection, table: str, columns: list[str], data: dict[str, np.ndarray | int | str | None], n: int) -> None:
    """Insert ``n`` rows in blocks; columns that ``data`` lacks are NULL."""
    statement = f"INSERT INTO {table} ({','.join(data)}) VALUES ({','.join('?' * len(data))})"
    for at in range(0, n, 200_000):
        size = min(200_000, n - at)
        block = [v[at : at + size].tolist() if isinstance(v, np.ndarray) else [v] * size for v in data.values()]
        db.executemany(statement, zip(*block))


def build(path: Path, kernels: int) -> dict[str, int]:
    """Write a report of about ``kernels`` kernels and return its row counts."""
    db = sqlite3.connect(path)
    db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
    db.execute("CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT)")
    db.execute("CREATE TABLE META_DATA_CAPTURE (name TEXT NOT NULL, value TEXT)")
    db.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    db.execute(f"CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL ({','.join(c + ' INTEGER' for c in KERNEL_COLUMNS)})".replace("end ", '"end" '))
    db.execute('CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, "end" INTEGER NOT NULL, eventClass INTEGER NOT NULL,'
               " globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER)")
    db.execute(f"CREATE TABLE NVTX_EVENTS ({','.join(c + (' TEXT' if c in ('text', 'jsonText', 'binaryData') else ' INTEGER') for c in NVTX_COLUMNS)})".replace("end ", '"end" ', 1))
    db.execute("INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_NAME', 'NVIDIA Nsight Systems'), ('EXPORT_PRODUCT_VERSION', '2026.2.1.210'), ('EXPORT_SCHEMA_VERSION', '3.25.0')")
    db.execute("INSERT INTO META_DATA_CAPTURE VALUES ('CUDA_GRAPH_TRACE_OPTIONS:MODE', 'Graph')")
    ranges, ticks = template()
    names = sorted({name for _, _, name in ranges})
    strings = NAMES + [n.split("<")[0][5:] for n in NAMES] + API + names
    ids = {s: i + 1 for i, s in enumerate(strings)}
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(i, s) for s, i in ids.items()])
    iterations = max(1, round(kernels / KERNELS_PER_ITERATION / len(THREADS)))
    counts = {"kernels": 0, "api": 0, "ranges": 0}
    rng = np.random.default_rng(0)
    period = int(ticks.max() + 2) * 5000
    for number, (pid, tid) in enumerate(THREADS):
        base = np.arange(iterations, dtype=np.int64)[:, None] * period + 1_000_000_000 + number
        global_pid = (1 << 56) | (pid << 24)
        global_tid = global_pid | tid
        n = iterations * len(ticks)
        call = (base + ticks * 5000).ravel()
        correlation = np.arange(n, dtype=np.int64) * 5 + 100 + (number % 2) * 5 * n
        duration = rng.integers(1000, 60_000, n)
        start = call + 8000
        kernel_name = np.tile(np.arange(len(ticks)) % len(NAMES), iterations) + 1
        insert(db, "CUPTI_ACTIVITY_KIND_KERNEL", KERNEL_COLUMNS, {
            "start": start, '"end"': start + duration, "deviceId": number, "contextId": 1, "greenContextId": 0, "streamId": 7, "correlationId": correlation,
            "globalPid": global_pid, "demangledName": kernel_name, "shortName": kernel_name + len(NAMES), "mangledName": kernel_name, "launchType": 1,
            "cacheConfig": 0, "registersPerThread": 128, "gridX": rng.integers(1, 4000, n), "gridY": 1, "gridZ": 1, "blockX": 128, "blockY": 1, "blockZ": 1,
            "staticSharedMemory": 1024, "dynamicSharedMemory": 98304, "localMemoryPerThread": 0, "localMemoryTotal": 0, "gridId": correlation,
            "sharedMemoryExecuted": 102400, "clusterX": 1, "clusterY": 1, "clusterZ": 1}, n)
        counts["kernels"] += n
        others = int(round(n * (API_PER_KERNEL - 1)))
        host = np.repeat(np.arange(n), 4)[:others]
        slot = np.tile(np.arange(4), n)[:others]
        api_start = np.concatenate([call, call[host] + 3000 + slot * 400])
        order = np.argsort(api_start, kind="stable")
        insert(db, "CUPTI_ACTIVITY_KIND_RUNTIME", [], {
            "start": api_start[order], '"end"': (api_start + np.concatenate([np.full(n, 2500), np.full(others, 250)]))[order], "eventClass": 0, "globalTid": global_tid,
            "correlationId": np.concatenate([correlation, correlation[host] + 1 + slot])[order],
            "nameId": np.concatenate([np.full(n, ids[API[0]]), np.array([ids[a] for a in API[1:]])[slot % 3]])[order], "returnValue": 0}, n + others)
        counts["api"] += n + others
        r_start = (base + np.array([r[0] for r in ranges]) * 5000 - 100).ravel()
        r_end = (base + np.array([r[1] for r in ranges]) * 5000 - 200).ravel()
        text = np.tile(np.array([ids[r[2]] for r in ranges]), iterations)
        order = np.argsort(r_start, kind="stable")
        insert(db, "NVTX_EVENTS", NVTX_COLUMNS, {"start": r_start[order], '"end"': r_end[order], "eventType": 59, "globalTid": global_tid, "textId": text[order], "domainId": 0}, len(text))
        counts["ranges"] += len(text)
    db.commit()
    db.close()
    return counts
