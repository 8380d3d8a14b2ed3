# SPDX-License-Identifier: Apache-2.0
"""What profiles/ holds: finds runs by name, folder or report file, in one way for all that ask for one."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from moe_lab.runs import rows, run_json
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.runs.ranks import together
from moe_lab.runs.window import analysed
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, shipped
from moe_lab.spec.guard.entry import below, meant, one_line
from moe_lab.spec.guard.places import MANIFEST
from moe_lab.spec.launches import Launches


class MissingRunError(UserError):
    """There is no run of that name."""


@dataclass(frozen=True)
class Run:
    """A run folder, or a bare report file.

    Attributes:
        path: the folder, or the file.
        manifest: the contents of ``run.json``; for a bare report only its name.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def report(self) -> Path:
        """The report: a file, or a folder for formats of several files; links that lead out of the run are refused."""
        named = self.manifest.get("report")
        return below(self.path, self.path / str(named)) if named else self.path

    @property
    def is_bench(self) -> bool:
        """Whether it holds the rows of a benchmark instead of a report."""
        return "rows" in self.manifest

    @property
    def what(self) -> str:
        """What was measured: the layer of a capture, or how many rows of which benchmark; empty if not stated."""
        if self.is_bench:
            count = self.manifest["rows"]["count"]
            return f"bench {self.manifest['bench']}, {count} {'row' if count == 1 else 'rows'}"
        workload = self.manifest.get("workload") or {}
        said = {k: workload.get(k) for k in ("workload", "model", "phase", "M", "backend")}
        return " ".join(f"M={v}" if k == "M" else str(v) for k, v in said.items() if v is not None)

    def rows(self) -> pd.DataFrame:
        """Read the rows of a benchmark; NA where a quantity is not known.

        Raises:
            UserError: it is a capture, or the rows cannot be read.
        """
        if not self.is_bench:
            raise UserError(f"'{self.manifest['name']}' is a capture, not a benchmark: it has launches, but no rows.")
        found = rows.read(self.report, self.manifest["rows"])
        if "dtype" in found and "format" not in found:  # a run from before formats: plain numbers of its dtype
            found.insert(int(found.columns.get_loc("dtype")), "format", found["dtype"])  # type: ignore[arg-type]
        return found

    def launches(self, window: str = "auto") -> Launches:
        """Read the report, or those of all ranks.

        Args:
            window: ``auto``: what the program marks, without warm-up (see ``window.analysed``); ``all``: everything.

        Raises:
            UserError: it is a benchmark, or a report is missing or cannot be read.
        """
        if self.is_bench:
            raise UserError(f"'{self.manifest['name']}' is a benchmark: it has rows, but no launches; give a capture.")
        options = {"allow_graph_level": True} if self.manifest.get("graph_level") else {}
        files = [below(self.path, self.path / name) for name in self.manifest.get("reports") or ()] or [self.report]
        parts = [parse_report(path, **options) for path in files]
        parts = [analysed(part) for part in parts] if window == "auto" else parts
        return parts[0] if len(parts) == 1 else together(parts)


def load(name_or_path: str | Path, *, root: Path | None = None) -> Run:
    """Return a run by its name (``<gpu>/<run>``, or ``<run>`` if only one GPU has it), its folder, or a report file.

    Raises:
        UserError: there is nothing of that name, or its ``run.json`` cannot be read.
    """
    path = Path(name_or_path)
    roots = _roots(root)
    if os.path.isfile(path) and path.name != MANIFEST:  # Path.is_file raises for names that no file can have
        return Run(path, {"name": path.name})
    for place in (path.parent if path.name == MANIFEST else path, *(folder / path for folder in roots)):
        if os.path.isfile(place / MANIFEST):
            return read(place)
    if os.path.isdir(path) and _is_report(path):
        return Run(path, {"name": path.name})
    runs = list_runs(root)
    same = [r for r in runs if str(r.manifest["name"]).split("/")[-1] == str(name_or_path)]
    if len(same) == 1:
        return same[0]
    names = [str(r.manifest["name"]) for r in same or runs]
    missing, said = "report in the folder" if os.path.isdir(path) else "run or report", one_line(shown(path), 100)
    error = UserError if os.path.exists(path) or os.path.exists(roots[0] / path) else MissingRunError
    raise error(f"There is no {missing} '{said}'; {meant(said, names)}")


def _is_report(folder: Path) -> bool:
    try:
        return bool(format_of(folder))
    except UserError:
        return False


def list_runs(root: Path | None = None) -> list[Run]:
    """Return the runs of a profiles folder that can be read, sorted by name."""
    return survey(root)[0]


def within(where: str) -> list[Run]:
    """Return the runs in a folder, as ``<run>`` or ``<gpu>/<run>``, or those of profiles/ whose name begins so.

    Raises:
        UserError: there is none.
    """
    if os.path.isdir(where):
        own = [path.parent for path in Path(where).glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")]
        runs = [read(folder) for folder in sorted([*own, *folders(Path(where))])]
    else:
        runs = [run for run in list_runs() if str(run.manifest["name"]).startswith(where)]
    if not runs:
        raise UserError(f"There is no run in or of '{one_line(shown(where), 100)}'; give a folder or how names begin.")
    return runs


def survey(root: Path | None = None) -> tuple[list[Run], list[str]]:
    """Return the runs of a profiles folder, sorted by name, and a sentence on each that cannot be read."""
    found: list[Run] = []
    broken: list[str] = []
    for folder in folders(root):
        try:
            found.append(read(folder))
        except UserError as error:
            broken.append(str(error))
    return found, broken


def folders(root: Path | None = None) -> list[Path]:
    """Return the folders of the runs in a profiles folder, sorted by name, also of runs that cannot be read.

    Without ``root`` also those of the runs that an installed moe_lab carries, but for names that there are already.
    """
    roots = _roots(root)
    places.must_be_folder(roots[0])
    found = {path.parent.relative_to(place): path.parent for place in roots[::-1] for path in place.glob(shipped.RUNS)}
    # A run that is still being written has a name with a dot.
    return [found[name] for name in sorted(found) if not name.name.startswith(".")]


def _roots(root: Path | None) -> list[Path]:
    return [root] if root else shipped.roots()


@dataclass(frozen=True)
class Opened:
    """A run that was asked for, or the reason why there is none.

    Attributes:
        run: the run; None if there is none.
        missing: a sentence on what was asked for, how to make it and what there is; empty if there is a run.
    """

    run: Run | None
    missing: str = ""


def open(asked: str, make: str = "", *, bench: str = "", commands: bool = False) -> Opened:
    """Return a run by any name that ``load`` takes, or by the command that captures it; all pages use this.

    Args:
        asked: run name, run folder or report file; empty = none.
        make: the command that makes such a run, for the sentence on a missing one.
        bench: the benchmark that it must be of: ``align``, ``experts`` or ``tune``; empty = any run.
        commands: whether ``asked`` is a command to capture now: ``moe-lab capture TOOL --name X -- COMMAND``, or any
            command, which is then profiled with Nsight Systems. If False, nothing is ever started.

    Raises:
        UserError: the run exists but cannot be read or is of another benchmark, or the capture failed.
    """
    if commands and asked:
        return Opened(_capture(asked))
    try:
        if not asked:
            raise MissingRunError
        run = load(asked)
    except MissingRunError:
        said = f"There is no run '{one_line(shown(asked), 100)}'" if asked else "No run was asked for"
        of = f" of the {bench} benchmark" if bench and asked else ""
        known = [str(r.manifest["name"]) for r in list_runs() if (r.manifest.get("bench") or "") == bench]
        there = f" There are: {', '.join(known)}." if known else ""
        return Opened(None, f"{said}{of}" + (f"; `{make}` on a GPU makes one." if make else ".") + there)
    if bench and run.is_bench and run.manifest["bench"] != bench:
        other = run.manifest["bench"]
        raise UserError(f"'{shown(asked)}' is of the benchmark '{other}', not of {bench}; give another run.")
    return Opened(run)


def _capture(asked: str) -> Run:
    """Capture a command now and return its run; a ``moe-lab capture`` command is run as it is."""
    try:
        command = shlex.split(asked)
    except ValueError as error:
        raise UserError(f"The command cannot be read ({error}); close its quotation marks.") from None
    if command[:2] != ["moe-lab", "capture"]:
        from moe_lab.runs.capture import capture, nsys

        return capture(nsys, command, f"captured/{datetime.now():%Y-%m-%d_%H%M%S}")
    done = subprocess.run([sys.executable, "-m", *["moe_lab", *command[1:]]], capture_output=True, text=True)
    # `moe-lab capture` prints the folder of its run, after what the profiled program prints.
    lines = [line for line in done.stdout.splitlines() if os.path.isfile(Path(line) / MANIFEST)]
    if done.returncode or not lines:
        said = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("moe-lab")]
        raise UserError(said[-1].removeprefix("error: ") if said else "The capture failed; run it in a terminal.")
    return read(Path(lines[-1]))


def read(folder: Path) -> Run:
    """Return the run of a folder."""
    return Run(folder, run_json.read(folder / MANIFEST))


def shown(name: str | Path) -> str:
    """Return a run, report or folder as sentences may name it: of an absolute path only the last part."""
    return (Path(name).name or "/") if Path(name).is_absolute() else str(name)
