"""Small torch.profiler traces, event by event, in the shape that Kineto writes for a CUDA program."""

import gzip
import json
from pathlib import Path
from typing import Any

H200 = {
    "id": 0,
    "name": "NVIDIA H200",
    "totalGlobalMem": 150109880320,
    "computeMajor": 9,
    "computeMinor": 0,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerMultiprocessor": 2048,
    "regsPerBlock": 65536,
    "warpSize": 32,
    "sharedMemPerBlock": 49152,
    "numSms": 132,
    "regsPerMultiprocessor": 65536,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
}


def us(ns: int) -> float:
    """Return ns as the number of microseconds that Kineto prints: three decimals."""
    return ns / 1000


class KinetoBuilder:
    """Collects events, then writes the file. Times are ns, as in NsysBuilder."""

    def __init__(self, pid: int = 803, **header: Any) -> None:
        self.pid = pid
        self.events: list[dict[str, Any]] = []
        self.header = {"schemaVersion": 1, "deviceProperties": [H200], "cuda_runtime_version": 13000} | header
        self.tail = {"traceName": "/home/ada/trace.json"}

    def event(self, category: str, name: str, start: int, end: int, where: tuple[Any, Any], **args: Any) -> None:
        """Add a complete event; ``where`` is (pid, tid)."""
        times = {"ts": us(start), "dur": us(end - start)}
        self.events.append(
            {"ph": "X", "cat": category, "name": name, "pid": where[0], "tid": where[1], **times, "args": args}
        )

    def push(self, name: str, start: int, end: int, *, thread: int = 1, pid: int | None = None, external: int = 1):
        """Add a user annotation, and the projection onto the GPU that Kineto makes of it, which nobody should read."""
        self.event("user_annotation", name, start, end, (pid or self.pid, thread), **{"External id": external})
        self.event("gpu_user_annotation", name, start - 1, end + 10**9, (0, 7), **{"External id": external})

    def module(self, name: str, start: int, end: int, *, thread: int = 1):
        """Add a call of nn.Module, as with_stack=True writes it."""
        args = {"Python id": 1, "Python parent id": 0, "Python module id": 0}
        self.event("python_function", f"nn.Module: {name}", start, end, (self.pid, thread), **args)

    def operator(self, name: str, start: int, end: int, external: int, *, thread: int = 1):
        """Add a PyTorch operator."""
        args = {"External id": external, "Record function id": 0, "Ev Idx": external}
        self.event("cpu_op", name, start, end, (self.pid, thread), **args)

    def call(self, start: int, end: int, correlation: int, *, thread: int = 1, name="cudaLaunchKernel", pid=None):
        """Add an API call and the arrow from it."""
        category = "cuda_driver" if name.startswith("cu") and not name.startswith("cuda") else "cuda_runtime"
        where = (pid or self.pid, thread)
        self.event(category, name, start, end, where, cbid=211, correlation=correlation)
        arrow = {"ph": "s", "id": correlation, "pid": where[0], "tid": thread, "ts": us(start), "cat": "ac2g"}
        self.events.append(arrow | {"name": "ac2g"})

    def kernel(self, start: int, end: int, correlation: int, *, name="gemm", stream=7, device=0, node=0, external=0):
        """Add a kernel; ``node`` and ``external`` 0 mean none."""
        graph = {"graph id": 1 if node else 0, "graph node id": node}
        link = {"External id": external} if external else {}
        memory = {"registers per thread": 64, "shared memory": 1024}
        shape = {"blocks per SM": 0.060606, "warps per SM": 0.242424, "grid": [4, 2, 1], "block": [128, 1, 1]}
        ids = {"queued": 0, "device": device, "context": 1, "stream": stream, "correlation": correlation}
        full = f"void {name}<float>(float*)"
        args = link | ids | memory | shape | {"est. achieved occupancy %": 0} | graph
        self.event("kernel", full, start, end, (device, stream), **args)

    def copy(
        self, start: int, end: int, correlation: int, *, category="gpu_memcpy", name="Memcpy HtoD (Pageable -> Device)"
    ):
        """Add a copy of 8 bytes."""
        ids = {"device": 0, "context": 1, "stream": 7, "correlation": correlation}
        self.event(category, name, start, end, (0, 7), **ids, bytes=8, **{"memory bandwidth (GB/s)": 0.005})

    def launch(self, at: int, correlation: int, *, gpu: tuple[int, int], thread: int = 1, **kernel: Any) -> None:
        """Add a call of 2 ns at a time and the kernel that it launches."""
        self.call(at, at + 2, correlation, thread=thread)
        self.kernel(*gpu, correlation, **kernel)

    def metadata(self) -> None:
        """Add what Kineto writes beside events: names of processes and threads, spans, marks."""
        for name, args in (("process_name", {"name": "python"}), ("thread_name", {"name": "thread 1 (python)"})):
            self.events.append({"name": name, "ph": "M", "ts": 1.5, "pid": self.pid, "tid": 0, "args": args})
        span = {"ph": "X", "cat": "Trace", "ts": 1.0, "dur": 9.0, "pid": "Spans", "tid": "PyTorch Profiler"}
        self.events.append(span | {"name": "PyTorch Profiler (0)", "args": {"Op count": 0}})
        self.events.append({"name": "Record Window End", "ph": "i", "s": "g", "pid": "", "tid": "", "ts": 9.0})

    def text(self) -> str:
        """Return the trace."""
        return json.dumps({**self.header, "traceEvents": self.events, **self.tail}, indent=1)

    def write(self, path: Path) -> Path:
        """Write the file, packed if it is called .gz, and return its path."""
        packed = path.suffix == ".gz"
        path.write_bytes(gzip.compress(self.text().encode()) if packed else self.text().encode())
        return path
