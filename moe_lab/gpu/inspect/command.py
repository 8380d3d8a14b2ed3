# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu inspect``: compile the kernels of calls for GPUs that this machine lacks; one row each.

The file has JSON lines like a benchmark's: a header, a line per row, then ``{"complete": true}``. Beside it is a folder
of the same name plus ``.code`` with the listings that the rows name. Each architecture has its own processes, which
compile: if one dies or hangs, only the launch that it was compiling is lost, and its row says so.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from moe_lab.gpu.bench import result
from moe_lab.gpu.bench.align import one_line
from moe_lab.gpu.bench.tune.pool import Pool, Task
from moe_lab.gpu.inspect.cases import Case, planned
from moe_lab.spec import architectures, bench_options, formats, plugins
from moe_lab.spec.architectures import Card
from moe_lab.spec.bench_options import TUNABLE, listed, numbers
from moe_lab.spec.errors import UserError

KEY = ("gpu", "model", "format", "M", "backend", "algorithm", "launch")
NO_LAUNCH = {"launch": None, "kernel": None, "stage": None}  # for a call that refuses before it launches anything
GROUPS = ("experts", "align", "router")
INSPECTED = (*TUNABLE, "hopper", "vllm_triton", "vllm_batched", "sglang_triton", "triton_kernels")


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    parser = bench_options.command(commands, "inspect", "compile kernels for GPUs that this machine lacks", run)
    bench_options.add("inspect", parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    parser.add_argument("--compiler", metavar="CARD", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compile in separate processes or, with ``--compiler``, be one of them; return a summary for stdout.

    Raises:
        UserError: an unknown architecture, kernel, backend, algorithm, model or format, or a missing output folder.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("With TRITON_INTERPRET=1 there is nothing to compile; unset it.")
    if options.compiler:
        return serve(options.compiler, options.tiles)
    cards, cases = architectures.listed(options.arch), _cases(options)
    with opened(options.out, header("inspect", KEY, options, cards)) as file:
        rows = compiled(dict.fromkeys(cards, cases), options, file, options.tiles)
        kept = [row for row in rows if options.kernel in ("all", *GROUPS, row.get("kernel"))]
        if not kept:  # only now are the names of the kernels known
            raise UserError(f"No call launches a kernel '{options.kernel[:60]}'; see --kernel all.")
        return ended(file, kept)


@contextmanager
def opened(out: Path, header: dict[str, Any]) -> Iterator[TextIO]:
    """Begin a result file; UserError if its folder does not exist."""
    if not out.resolve().parent.is_dir():
        raise UserError(f"The folder of --out '{out}' does not exist; make it first.")
    with out.open("w") as file:
        result.append(file, [header])
        yield file


def ended(file: TextIO, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the rows and the last line; return a summary for stdout."""
    result.append(file, [*rows, {"complete": True}])
    return {"bench": "inspect", "rows": len(rows), "failed": sum(row["error"] is not None for row in rows)}


def compiled(
    cases: Mapping[Card, list[Case]], options: argparse.Namespace, file: TextIO, tiles: str
) -> list[dict[str, Any]]:
    """Compile in separate processes, with listings in the folder beside ``file``; return the rows.

    Args:
        cases: card -> what to compile for it.
        options: jobs and patience.
        file: the result file.
        tiles: ``tuned`` or ``own``: what backends take that are given no tile.
    """
    code = Path(f"{file.name}.code")
    code.mkdir(exist_ok=True)
    jobs = options.jobs or min(16, os.cpu_count() or 1)
    each = max(1, jobs // len(cases))
    with ThreadPoolExecutor(min(jobs, len(cases))) as threads:
        works = [Work(card, own, tiles, options.patience, code, each) for card, own in cases.items()]
        return [row for found in threads.map(Work.do, works) for row in found]


@dataclass(frozen=True)
class Work:
    """What to compile for one card, and how."""

    card: Card
    cases: list[Case]
    tiles: str
    patience: int
    code: Path
    processes: int

    def do(self) -> list[dict[str, Any]]:
        """Return the rows, in the order of the cases and launches."""
        argv = [sys.executable, "-m", "moe_lab.gpu", "inspect", "--out", "-"]
        argv += ["--compiler", self.card.card, "--tiles", self.tiles]
        pool = Pool(argv, self.processes, self.patience)
        begun = self.code / f"{self.card.card}-"
        tasks: list[Task] = [
            {"case": asdict(case), "rows": f"{begun}{i}.jsonl", "now": f"{begun}{i}.now", "first": 0}
            for i, case in enumerate(self.cases)
        ]

        def done(task: Task, error: str | None, seconds: float) -> None:
            if error and (at := _noted(task)) is not None:  # it died within a launch: the later ones get another try
                _append(task, [at | {"error": error}])
                pool.left.append(task | {"first": at["launch"] + 1})
            elif error:
                _append(task, [Case(**task["case"]).facts() | NO_LAUNCH | {"error": error}])

        pool.run(tasks, time.time() + 24 * 3600, done)  # no time budget: each compilation has its patience
        rows = [row for task in tasks for row in _read(task)]
        for task in tasks:
            Path(task["rows"]).unlink(missing_ok=True)
        return [{"gpu": self.card.name, "arch": self.card.arch} | row for row in rows]


def serve(card: str, tiles: str) -> dict[str, Any]:
    """Answer each task on stdin with a line on stdout, once the rows of its launches are written."""
    from moe_lab.gpu.inspect import pretend

    # Before any launcher is asked, because they cache what they learn about the device.
    pretend.gpu(architectures.find(card), tiles == "tuned")
    done = 0
    for line in sys.stdin:
        task, error = json.loads(line), None
        try:
            _compile(task)
        except Exception as failure:  # a call that refuses
            error = _why(failure)
        print('{"task":1,"error":' + json.dumps(error) + "}", flush=True)  # noqa: T201
        done += 1
    return {"compiled": done}


def _compile(task: Task) -> None:
    from moe_lab.gpu.inspect.record import told

    case, now = Case(**task["case"]), Path(task["now"])
    for number, launch in list(enumerate(case.launches()))[task["first"] :]:
        row = case.facts() | {"launch": number} | told(launch) | {"error": None}
        now.write_text(json.dumps(row))  # names the launch if the compiler takes the process down
        try:
            row |= launch.compiled(now.parent)
        except Exception as failure:
            row["error"] = _why(failure)
        now.unlink()
        _append(task, [row])


def _why(failure: Exception) -> str:
    return str(failure) if isinstance(failure, UserError) else one_line(failure)


def _append(task: Task, rows: list[dict[str, Any]]) -> None:
    with Path(task["rows"]).open("a") as file:
        result.append(file, rows)


def _noted(task: Task) -> dict[str, Any] | None:
    """Return the row that a process was working on when it died; None if it only refused."""
    now = Path(task["now"])
    if not now.exists():
        return None
    row: dict[str, Any] = json.loads(now.read_text())
    now.unlink()
    return row


def _read(task: Task) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.finished(Path(task["rows"]))]


def _cases(options: argparse.Namespace) -> list[Case]:
    groups = [options.kernel] if options.kernel in GROUPS else list(GROUPS)
    for format in (asked := listed(options.format)):
        formats.get(format)
    backends, algorithms = listed(options.backend), _algorithms(options.algorithms)
    for name in backends:
        if name.partition("@")[0] not in INSPECTED:
            raise UserError(f"'{name[:60]}' is not inspected; choose some of: {', '.join(INSPECTED)}.")
    return [
        case
        for model in listed(options.model)
        for case in planned(groups, backends, algorithms, model, asked, numbers(options.m, least=1))
    ]


def _algorithms(text: str) -> list[str]:
    """Return the named algorithms, or all whose kernels are in Triton alone; UserError for one that only picks."""
    needs = {name: set(plugins.info("align", name).get("needs", ())) for name in plugins.names("align")}
    able = tuple(name for name in needs if name != "auto" and "triton" in needs[name])  # auto picks among the others
    return [name for name in able if needs[name] == {"torch", "triton"}] if text == "all" else listed(text, able)


def header(bench: str, key: Sequence[str], options: argparse.Namespace, cards: Iterable[Card]) -> dict[str, Any]:
    """Return the first line of a result file, for the options of ``inspect`` or ``tune``."""
    from moe_lab.gpu.workloads import record

    settings = {o.name: getattr(options, o.name) for o in bench_options.of(bench) if o.name not in ("jobs",)}
    return {
        "schema": result.SCHEMA,
        "bench": "inspect",
        "key": key,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": None,
        "versions": record.versions(),
        "command": ["python", "-m", "moe_lab.gpu", bench, *bench_options.argv(bench, options)],
        "settings": settings | {"cards": [card.card for card in cards]},
    }
