# SPDX-License-Identifier: Apache-2.0
"""torch.profiler (Kineto): kernels, API calls and ranges of any Python command, where nsys cannot be installed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import dropwhile
from pathlib import Path

from moe_lab.runs.capture import Traced, window
from moe_lab.runs.capture._tools import Tool
from moe_lab.runs.capture._work import Work
from moe_lab.spec.errors import UserError

INFO = {
    "about": "torch.profiler: kernels, API calls, ranges of a Python command",
    "needs": [],
    "called": "torch",
    "of_program": True,
    "shows": {
        "moe-lab capture torch --name X -- python ...": (
            "the same with torch.profiler, where nsys cannot be installed; it cannot tell the stages of "
            "CUDA-graph kernels"
        ),
    },
}

RUNNER = Path(__file__).with_name("_torch_runner.py")
HOW_TO_GET = "install torch into the environment of the profiled program (pip install 'moe-lab[gpu]')"
WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")  # options of python that take the next argument


@dataclass(frozen=True)
class Options:
    """How to trace; see the help of each option."""

    window: str = window("torch.cuda.profiler.start to stop")


def available() -> Tool | str:
    """Return this environment's torch, or a sentence on why there is none; the profiled command may bring its own."""
    try:
        return Tool(RUNNER, version("torch"))
    except PackageNotFoundError:
        return f"torch was not found; {HOW_TO_GET}."


def command(workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out`` (JSON). Pure, except that it reads a script's first line.

    The workload is ``python [options] (-m MODULE | -c CODE | FILE) ...``, or a script whose first line names Python.

    Raises:
        UserError: the command does not run Python.
    """
    python, flags, program = _split(workload)
    return [*python, *flags, str(RUNNER), out, options.window or "all", "--", *program]


def _split(workload: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return (interpreter, its options, what it runs)."""
    name = Path(workload[0]).name
    if not name.startswith(("python", "pypy")):
        return _interpreter(workload[0]), [], [shutil.which(workload[0]) or workload[0], *workload[1:]]
    at = 1
    while at < len(workload) and workload[at].startswith("-") and workload[at] not in ("-m", "-c", "-"):
        at += 2 if workload[at] in WITH_VALUE else 1
    program = list(workload[at:])
    if not program or program[0] == "-" or (program[0] in ("-m", "-c") and len(program) < 2):
        raise UserError("There is no program to profile after 'python'; give a file, -m MODULE or -c CODE.")
    return [workload[0]], list(workload[1:at]), program


def _interpreter(script: str) -> list[str]:
    """Return the Python, with its options, that a script's first line names."""
    found = shutil.which(script)
    line = b""
    if found:
        with open(found, "rb") as file:
            line = file.readline(512)  # a binary may have no line ends
    words = line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []
    if words and Path(words[0]).name == "env":
        # #!/usr/bin/env -S python3 -u
        words = list(dropwhile(lambda word: word.startswith("-"), words[1:]))
    if not words or not Path(words[0]).name.startswith(("python", "pypy")):
        raise UserError(
            f"torch.profiler traces only Python, which '{Path(script).name}' is not; profile it with nsys, or give "
            "the Python command that it runs."
        )
    return words


def trace(work: Work, tool: Tool | str, workload: Sequence[str], options: Options) -> Traced:
    """Profile the command: the process itself, not those that it starts.

    Raises:
        UserError: the command does not run Python, fails, or runs nothing on the GPU.
    """
    out = work.folder / "trace.json"
    work.run(command(workload, str(out), options), "torch", f" (If torch is missing: {HOW_TO_GET}.)")
    if not out.exists():
        hint = "; try --window all" if options.window == "profiler-api" else ""
        raise UserError(f"The command never called torch.cuda.profiler.start, so nothing was traced{hint}.")
    versions = json.loads(Path(f"{out}.versions").read_text())
    facts = {"name": "torch.profiler", "version": versions["torch"]}
    return Traced(out, [f"--window={options.window}"], facts, versions=versions)
