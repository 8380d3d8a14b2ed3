"""torch.profiler (Kineto): kernels, API calls and ranges of any Python command, where nsys cannot be installed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import dropwhile
from pathlib import Path

from moe_lab.runs import Run
from moe_lab.runs.capture._facts import check_command, default_window, describe
from moe_lab.runs.capture._tools import Tool
from moe_lab.runs.capture._work import prepared
from moe_lab.spec.errors import UserError

INFO = {"about": "torch.profiler: kernels, API calls, ranges of a Python command", "needs": []}

RUNNER = Path(__file__).with_name("_torch_runner.py")
HOW_TO_GET = "install torch into the environment of the profiled program (pip install 'moe-lab[gpu]')"
WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")  # options of python that take the next argument


@dataclass(frozen=True)
class Options:
    """How to trace.

    Attributes:
        window: ``all`` (the whole command) or ``profiler-api`` (between torch.cuda.profiler.start and stop).
    """

    window: str = "all"


def available() -> Tool | str:
    """Return the torch of this environment, or the reason why there is none; a command may bring its own."""
    try:
        return Tool(RUNNER, version("torch"))
    except PackageNotFoundError:
        return f"torch was not found; {HOW_TO_GET}."


def command(workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out`` (JSON). Pure, but for reading a script's first line.

    Args:
        workload: ``python [options] (-m MODULE | -c CODE | FILE) ...``, or a script that Python runs.
        out: file to write.
        options: how to trace.

    Raises:
        UserError: the command is not Python's.
    """
    python, flags, program = _split(workload)
    return [*python, *flags, str(RUNNER), out, options.window, "--", *program]


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
    """Return the Python that a script's first line names."""
    found = shutil.which(script)
    line = b""
    if found:
        with open(found, "rb") as file:
            line = file.readline(512)
    words = line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []
    if words and Path(words[0]).name == "env":
        words = list(dropwhile(lambda word: word.startswith("-"), words[1:]))
    if not words or not Path(words[0]).name.startswith(("python", "pypy")):
        raise UserError(
            f"torch.profiler can only trace Python, and '{Path(script).name}' is none; profile it with nsys, or give "
            "the Python command that it runs."
        )
    return words


def capture(
    workload: Sequence[str],
    name: str,
    *,
    options: Options | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Profile any Python command and keep the result as a redacted run folder.

    Only the process itself is traced, not those that it starts.

    Args:
        workload: the command, one string an argument.
        name: ``<run>`` or ``<gpu>/<run>``.
        options: how to trace; by default the window of ``default_window``.
        root: profiles folder.
        overwrite: replace a run of that name.

    Raises:
        UserError: the command is not Python's, fails, or runs nothing on the GPU.
    """
    check_command(workload, "torch")
    options = options or Options(window=default_window(workload))
    with prepared(name, root, overwrite) as work:
        trace = work.folder / "trace.json"
        _check(trace, work.run(command(workload, str(trace), options)), options)
        versions = json.loads(Path(f"{trace}.versions").read_text())
        manifest = describe("torch.profiler", versions["torch"], [f"--window={options.window}"], workload, work.said)
        manifest["versions"] = {**versions, **manifest["versions"]}
        return work.keep(trace, manifest)


def _check(trace: Path, code: int, options: Options) -> None:
    if code:
        raise UserError(
            f"The profiled command stopped with exit code {code}, see its output above. "
            f"(If it lacks torch: {HOW_TO_GET}.)"
        )
    if not trace.exists():
        hint = "; try --window all" if options.window == "profiler-api" else ""
        raise UserError(f"The command never called torch.cuda.profiler.start, so nothing was traced{hint}.")
