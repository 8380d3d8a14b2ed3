# SPDX-License-Identifier: Apache-2.0
"""One process measures, and another one restarts it without whatever crashed it.

All backends share one measuring process, because only there can they be interleaved: with a process for each, the GPU's
clocks and temperature would differ between them by more than the backends do, and each would pay for its own weights.
The price is that a crash takes all of them down. So the measuring process appends its rows after every case and notes
what it is about to run. When it dies, or the note does not change for too long, the supervisor reads the note, writes
down what to leave out, and restarts it with the first case that has no rows: only the time of one case is lost. A
backend that took the process down is left out of that case and, after its second time, of all that follow. If the
process died while several backends were being timed, the case is tried once more with each call noted and waited for,
which tells which one it was. The supervisor itself never touches the GPU.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from moe_lab.gpu.bench.result import finished
from moe_lab.spec.bench_options import EXPERTS_KEY
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.children import watch
from moe_lab.spec.guard.entry import read_json

RESTARTS = 40
ALL = "*"

_Told = TypeVar("_Told", bound="Told")


class Told:
    """What a measuring process is told by its supervisor: a dataclass of plain values."""

    @classmethod
    def read(cls: type[_Told], path: Path) -> _Told:
        """Return what ``write`` wrote."""
        return read_json(path, cls, what="the state of a measuring process", then="start again with --overwrite")

    def write(self, path: Path) -> None:
        """Write it for the measuring process."""
        path.write_text(json.dumps(self.__dict__))


@dataclass
class State(Told):
    """What the measuring process of the experts benchmark is told.

    Attributes:
        left_out: (case or ``"*"``, backend or ``"*"``, reason) of what is not to run.
        careful: cases in which to note each timed call and wait for it.
        no_trace: whether to leave the profiler out.
    """

    left_out: list[tuple[Any, str, str]] = field(default_factory=list)
    careful: list[Any] = field(default_factory=list)
    no_trace: bool = False

    def reasons(self, case: Any, backends: Sequence[str]) -> dict[str, str]:
        """Return backend -> why it is not run in a case."""
        found = [(who, why) for where, who, why in self.left_out if where in (ALL, case)]
        # Reversed, so that the first reason is the one that stays.
        return {name: why for who, why in reversed(found) for name in backends if who in (ALL, name)}

    def learn(self, note: dict[str, Any], died: str, deaths: Counter[str]) -> None:
        """Change what is to run after the measuring process has died.

        Args:
            note: case, backend ("" for several) and step that it noted last.
            died: how, as a verb: ``was killed by SIGSEGV``.
            deaths: how often each backend was the cause; updated here.
        """
        case, backend, step = note["case"], note["backend"], note["step"]
        if backend:
            deaths[backend] += 1
            self.left_out.append((case, backend, f"the process {died} in {backend} ({step})"))
            if deaths[backend] > 1:
                self.left_out.append((ALL, backend, f"left out: it took the process down {deaths[backend]} times"))
        elif step == "trace" and not self.no_trace:
            self.no_trace = True
        elif step == "time" and case not in self.careful:
            self.careful.append(case)
        else:
            self.left_out.append((case, ALL, f"the process {died} ({step})"))


@dataclass
class TuneState(Told):
    """What the measuring process of a tuning run is told.

    Attributes:
        dead: (key of a row, how the process died) of what is not to run again.
        alone: keys of rows to time one by one, because the process died while it timed them together.
    """

    dead: list[tuple[list[Any], str]] = field(default_factory=list)
    alone: list[list[Any]] = field(default_factory=list)


def note(state: Path, case: Any, backend: str, step: str) -> None:
    """Note beside its state file what the measuring process is about to run; the note before it is then done."""
    note_path(state).write_text(json.dumps({"case": case, "backend": backend, "step": step}))


def note_path(state: Path) -> Path:
    """Return the path of the note."""
    return state.with_name(f"{state.name}.now")


def resume(out: Path) -> list[Any]:
    """Cut off an unfinished line, and return the keys of the cases of which the file has rows."""
    return [[row.get(key) for key in EXPERTS_KEY[:5]] for row in _rows(out)]


def _rows(out: Path) -> list[dict[str, Any]]:
    lines = []
    for text in finished(out):
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if "backend" in line]


def supervise(arguments: Sequence[str], out: Path, patience_s: float) -> list[dict[str, Any]]:
    """Run the measuring process with the benchmark's options until every case has rows, and return them.

    ``out`` is replaced; see ``run_again``.
    """
    out.unlink(missing_ok=True)
    state, deaths = State(), Counter[str]()

    def learn(note: dict[str, Any], died: str) -> bool:
        what = f"{note['backend'] or 'several backends'}, {note['step']}, case {note['case']}"
        print(f"\nThe measuring process {died} ({what}); it continues without that.", file=sys.stderr)  # noqa: T201
        state.learn(note, died, deaths)
        return True

    argv = [sys.executable, "-m", "moe_lab.gpu", "bench-experts", *arguments, "--out", str(out)]
    run_again(argv, state, out, patience_s, learn, "case")
    return _rows(out)


def supervise_tuning(
    argv: Sequence[str], out: Path, patience_s: float, until: float, now: Callable[[], float] = time.time
) -> None:
    """Run the measuring process of a tuning run to its end; a tile that kills it is left out.

    ``until``: time in seconds after which it is not restarted; see ``run_again``.

    Raises:
        UserError: it died twice at the same place, or an error of ``run_again``.
    """
    state = TuneState()

    def learn(keys: list[Any], how: str) -> bool:
        print(f"\nThe measuring process {how} at {keys[:3]}; it continues without that.", file=sys.stderr)  # noqa: T201
        # What was left out cannot be the cause again, so a restart would not help.
        if not keys or keys[0] in (state.alone if len(keys) > 1 else [key for key, _ in state.dead]):
            raise UserError(f"The measuring process {how} twice at the same place; see its output above.")
        if len(keys) == 1:
            state.dead.append((keys[0], f"the process {how}"))
        else:
            state.alone += keys
        return now() <= until

    run_again(argv, state, out, patience_s, learn, "tile", until_noted=True)


def run_again(
    argv: Sequence[str],
    state: Told,
    out: Path,
    patience_s: float,
    learn: Callable[[Any, str], bool],
    first: str,
    until_noted: bool = False,
) -> None:
    """Run a measuring process to its end, and restart it each time it dies.

    Args:
        argv: its command, to which ``--state`` is added.
        state: what it is told.
        out: file that it writes.
        patience_s: how long its note may stay the same.
        learn: called with its last note and how it died; changes the state and returns whether to restart it.
        first: what its first note names: case, tile.
        until_noted: whether to wait for the first note without a limit.

    Raises:
        UserError: it refused with a message, died before it noted anything, or died too often.
    """
    path = out.with_name(f".{out.name}.state")
    last = note_path(path)
    try:
        for _ in range(RESTARTS):
            state.write(path)
            last.unlink(missing_ok=True)  # else a death before the first note would be blamed on the last one
            died = watch([*argv, "--state", str(path)], last, patience_s, until_noted=until_noted)
            if died is None:
                return
            if not last.exists():
                raise UserError(f"The measuring process {died} before its first {first}; see its output above.")
            if not learn(json.loads(last.read_text()), died):
                return
        raise UserError(f"The measuring process died {RESTARTS} times; the rows so far are in {out.name}.")
    finally:
        for file in (path, last):
            file.unlink(missing_ok=True)
