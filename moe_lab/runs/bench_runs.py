# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as runs: start the measuring process; keep its rows in ``profiles/<gpu>/<run>/{run.json, rows.csv}``."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moe_lab import __version__, runs
from moe_lab.runs import redact, rows
from moe_lab.runs.capture._facts import driver_version, gpu_name
from moe_lab.spec.errors import UserError, of_child
from moe_lab.spec.guard import children, places, scratch
from moe_lab.spec.guard.children import died
from moe_lab.spec.guard.places import full_name

_SHORTENED = (
    "In every text, paths are cut to their last component; secrets, addresses, device ids and the names of machines "
    "and users are replaced where a key, a known form or this machine reveals them."
)


def measure(
    bench: str, arguments: Sequence[str], name: str, *, root: Path | None = None, overwrite: bool = False
) -> tuple[runs.Run, int]:
    """Run a benchmark in a process of its own and keep its rows, even if the process dies half-way.

    Args:
        bench: such as ``align``: the process is ``python -m moe_lab.gpu bench-align`` and shares our stderr.
        arguments: command-line options of the benchmark.
        name: ``<run>`` or ``<gpu>/<run>``.
        root: profiles folder.
        overwrite: replace a run of that name.

    Returns:
        The run and the exit code of the process; 130 if it was interrupted.

    Raises:
        UserError: torch is missing, the name is bad or taken, or the process stopped before its first row.
    """
    if find_spec("torch") is None:
        raise UserError("A benchmark needs torch and a GPU here: pip install 'moe-lab[gpu]'.")
    place, full = root or places.profiles_root(), full_name(name, gpu_name())
    with places.claim(place, full, overwrite=overwrite) as held, scratch.private() as private:
        out = private.folder / "rows.json"
        private.worth_keeping = True
        code = wait([sys.executable, "-m", "moe_lab.gpu", f"bench-{bench}", *arguments, "--out", str(out)])
        private.worth_keeping = _measured(out)
        if not private.worth_keeping:
            raise of_child(code, f"The benchmark {stopped(code)} before it measured anything; see its output above.")
        given = {
            "command": ["moe-lab", "bench", bench, *arguments, "--name", name.split("/")[-1]],
            "versions": {"driver": driver_version()},
        }
        return import_bench([out], name, root=place, manifest=given, overwrite=overwrite, held=held), code


def _measured(out: Path) -> bool:
    try:
        return rows.is_result(out) and bool(rows.read_result(out).rows)
    except UserError:
        return False


def wait(argv: Sequence[str]) -> int:
    """Run a command without its stdout and return its exit code; Ctrl-C stops the command too and gives 130."""
    try:
        return children.wait(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
    # A KeyboardInterrupt too, but of SIGTERM: then this process must end as well.
    except children.Terminated:
        raise
    except KeyboardInterrupt:
        return 130


def stopped(code: int) -> str:
    """Return what an exit code means, as a verb: ``was killed by SIGSEGV``."""
    return "was stopped from the keyboard" if code == 130 else died(code)


def import_bench(
    files: Sequence[Path],
    name: str,
    *,
    root: Path | None = None,
    manifest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    held: places.Claim | None = None,
) -> runs.Run:
    """Make a run from what a benchmark's process wrote. The folder is complete or absent.

    Args:
        files: what ``--out`` wrote; several parts of one benchmark from one machine become one run.
        name: ``<gpu>/<run>``, or ``<run>``: the GPU's name then comes from the result.
        root: profiles folder; by default ``runs.profiles_root()``.
        manifest: what else is known: command, versions.
        overwrite: replace a run of that name.
        held: the claim on the run folder that the benchmark made before it ran.

    Raises:
        UserError: a file cannot be read, the parts do not belong together, or the name is bad or taken.
    """
    results = [rows.read_result(path) for path in files]
    refuse_strangers([path.name for path in files], results)
    header, hosts = results[0].header, redact.names_in([[r.header, r.rows] for r in results])
    name = full_name(name, (header.get("gpu") or {}).get("name"))
    with redact.counting() as hidden:
        measured = redact.tree([row for result in results for row in result.rows], hosts)
        known = _manifest(name, results, manifest or {}, hosts)
    known["hidden"] = hidden.counts
    with places.claim(root or places.profiles_root(), name, overwrite=overwrite, held=held) as claim:
        folder = claim.fresh()
        known["rows"] = rows.write(measured, folder / rows.FILE) | {
            "failed": sum(row.get("error") is not None for row in measured),
            "complete": None if any(r.complete is None for r in results) else all(r.complete for r in results),
        }
        (folder / runs.MANIFEST).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
        return runs.load(claim.finish())


def _manifest(
    name: str, results: Sequence[rows.Result], given: Mapping[str, Any], hosts: Sequence[str]
) -> dict[str, Any]:
    header = results[0].header
    versions = {**(header.get("versions") or {})}
    versions |= {k: v for k, v in (given.get("versions") or {}).items() if v is not None}
    commands = [given["command"]] if "command" in given else [r.header.get("command") or [] for r in results]
    said = [redact.command([str(c) for c in command], hosts) for command in commands]
    settings = redact.tree([r.header.get("settings") for r in results], hosts)
    return {
        "schema": 1,
        "name": name,
        "bench": str(header["bench"]),
        "tool": {"name": f"moe_lab bench {header['bench']}", "version": versions.get("moe_lab") or __version__},
        "command": [part for i, command in enumerate(said) for part in (["&&"] * (i > 0) + command)] or None,
        "date": redact.tree(header.get("date"), hosts),
        "gpu": redact.tree(header.get("gpu"), hosts),
        "versions": redact.tree(versions, hosts, name="versions"),
        "workload": None,
        **({"measured": redact.tree(header["measured"], hosts)} if header.get("measured") else {}),
        "settings": settings[0] if len(settings) == 1 else settings,
        "report": rows.FILE,
        "redacted": [_SHORTENED],
    }


def refuse_strangers(names: Sequence[str], results: Sequence[rows.Result]) -> None:
    """Raise UserError unless all parts are of one benchmark, GPU and software, and no row was measured twice.

    ``names`` of the parts are for the sentence.
    """
    for name, result in zip(names[1:], results[1:], strict=True):
        for key in ("bench", "gpu", "versions"):
            ours, theirs = (_identity(r.header.get(key)) for r in (results[0], result))
            if ours != theirs:
                raise UserError(
                    f"'{names[0]}' and '{name}' differ in {key}: times compare only on one machine with one "
                    "software; import them as two runs."
                )
    columns = results[0].header.get("key") or []
    seen: set[tuple[Any, ...]] = set()
    for row in (row for result in results for row in result.rows) if columns else ():
        at = tuple(row.get(column) for column in columns)
        if at in seen:
            said = ", ".join(f"{column}={v}" for column, v in zip(columns, at, strict=True))
            raise UserError(f"The files hold two measurements of one case ({said}); import them as two runs.")
        seen.add(at)


def _identity(value: Any) -> Any:
    """Return what must be equal: all but the bandwidth of the GPU, which is measured and never the same twice."""
    return {k: v for k, v in value.items() if k != "copy_bytes_per_s"} if isinstance(value, dict) else value
