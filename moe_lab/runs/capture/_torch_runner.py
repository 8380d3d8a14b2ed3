# SPDX-License-Identifier: Apache-2.0
"""Run a Python program under torch.profiler.

Usage: ``python _torch_runner.py OUT WINDOW -- (-m MODULE | -c CODE | FILE) [ARGUMENT ...]``.

It runs in the profiled process, whose Python has torch but perhaps not moe_lab, so it imports nothing of the package.
NVTX ranges of the program (torch.cuda.nvtx, the nvtx package) become annotations of the trace, as torch.profiler does
not record NVTX. It writes the trace to OUT and the versions of the software to OUT.versions. With WINDOW
``profiler-api`` it traces from ``torch.cuda.profiler.start()`` to ``stop()``, else the whole program.
"""

import inspect
import json
import os
import runpy
import sys
import threading
from contextlib import ContextDecorator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """Run the program; returns its exit status."""
    out, window, _, *program = arguments
    # moe_lab's own workload then opens its ranges as annotations and not as NVTX.
    os.environ["MOE_LAB_RANGES"] = "torch"
    # python -I and -P do not put the script's folder there.
    isolated = not sys.path or Path(sys.path[0]) != Path(__file__).parent
    if not isolated:
        sys.path.pop(0)  # this folder: its modules must not hide those of the program
    if find_spec("torch") is None:
        sys.exit("torch is not installed in the Python that runs the program.")
    import torch

    _annotate(torch)
    profiler = Window(torch)
    if window == "profiler-api":
        torch.cuda.profiler.start = profiler.start
        torch.cuda.profiler.stop = profiler.stop
    else:
        profiler.start()
    try:
        status = _run(program, isolated)
    finally:
        profiler.stop()
    if profiler.traced:
        profiler.profile.export_chrome_trace(out)
        Path(f"{out}.versions").write_text(json.dumps(_versions(torch)))
    return status


class Window:
    """The profiler; it traces one window, the first."""

    def __init__(self, torch: Any) -> None:
        activity = torch.profiler.ProfilerActivity
        activities = [activity.CPU, *([activity.CUDA] if torch.cuda.is_available() else [])]
        self.torch = torch
        known = inspect.signature(torch.profiler.profile.__init__).parameters
        options = {"acc_events": True} if "acc_events" in known else {}  # newer torch warns without it
        self.profile = torch.profiler.profile(activities=activities, **options)
        self.running = self.traced = False

    def start(self) -> None:
        """Begin to trace; later calls do nothing."""
        if not self.traced:
            self.running = self.traced = True
            self.profile.start()

    def stop(self) -> None:
        """Stop tracing once the GPU is done."""
        if self.running:
            self.running = False
            if self.torch.cuda.is_initialized():  # kernels that still run would be missing from the trace
                self.torch.cuda.synchronize()
            self.profile.stop()


def _annotate(torch: Any) -> None:
    """Let the calls that open and close NVTX ranges on a thread do the same with annotations of the profiler."""
    ranges = threading.local()

    def push(message: Any = None, *_: Any, **__: Any) -> int:
        stack = vars(ranges).setdefault("open", [])
        stack.append(torch.profiler.record_function(str(message)))
        stack[-1].__enter__()
        return len(stack) - 1

    def pop(*_: Any) -> int:
        stack = vars(ranges).setdefault("open", [])
        if stack:  # a pop too many does nothing in NVTX either
            stack.pop().__exit__(None, None, None)
        return len(stack)

    torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop = push, pop  # torch.cuda.nvtx.range calls them
    try:
        import nvtx
    except ImportError:
        return
    nvtx.push_range, nvtx.pop_range = push, pop

    class Domain:
        """Stands for domains of the nvtx package, in which ranges are opened too."""

        def __init__(self, real: Any) -> None:
            self.real = real
            self.pop_range = pop

        def push_range(self, attributes: Any = None) -> int:
            return push(getattr(attributes, "message", attributes))

        def get_event_attributes(self, message: Any = None, *_: Any, **__: Any) -> Any:
            return message

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    real = nvtx.get_domain
    nvtx.get_domain = lambda name=None: Domain(real(name))

    class Annotate(ContextDecorator):
        """Stands for nvtx.annotate, a context manager and decorator; a function's range has its name by default."""

        def __init__(self, message: Any = None, *_: Any, **__: Any) -> None:
            self.message = message

        def __call__(self, function: Any) -> Any:
            self.message = self.message or function.__name__
            return super().__call__(function)

        def __enter__(self) -> None:
            push(self.message or "")

        def __exit__(self, *failure: object) -> None:
            pop()

    nvtx.annotate = Annotate


def _run(program: list[str], isolated: bool) -> int:
    """Run a program as Python itself would, with its own sys.argv, sys.path[0] and ``__main__``."""
    kind = program[0]
    name = program[1] if kind in ("-m", "-c") else kind
    sys.argv = [kind, *program[2:]] if kind in ("-m", "-c") else program
    if not isolated:
        sys.path.insert(0, {"-m": os.getcwd(), "-c": ""}.get(kind, str(Path(name).resolve().parent)))
    try:
        if kind == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            # pickle and multiprocessing look in __main__ for what the code defines.
            sys.modules["__main__"] = own = type(sys)("__main__")
            exec(compile(name, "<string>", "exec"), own.__dict__)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as stop:
        # As Python does: any other value is printed, and the status is 1.
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        sys.stderr.write(f"{stop.code}\n")
        return 1
    return 0


def _versions(torch: Any) -> dict[str, str | None]:
    try:
        triton: str | None = version("triton")
    except PackageNotFoundError:
        triton = None
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
