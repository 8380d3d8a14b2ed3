# SPDX-License-Identifier: Apache-2.0
"""Captures: each ``<name>.py`` is a profiler; ``capture`` does what all of them have in common.

A profiler has ``INFO`` (``called``: its name on the command line, if it differs from the file's; ``of_program``:
whether the profiled program may bring the profiler along), ``Options`` (a dataclass of ``option`` fields, which are
options of the command line too), ``available() -> Tool | reason``, a pure ``command(...) -> argv``, and
``trace(work, tool, workload, options) -> Traced``.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_lab.runs import Run
from moe_lab.runs.capture._facts import check_command, default_window, describe
from moe_lab.runs.capture._work import prepared
from moe_lab.spec.errors import UserError


@dataclass(frozen=True)
class Traced:
    """What a profiler leaves.

    Attributes:
        report: file or folder that ``runs.import_report`` reads.
        flags: the options that the profiler was called with.
        tool: further facts of the profiler; ``name`` and ``version`` replace those of the plugin.
        gpu: facts of the GPU that neither the report nor the workload states.
        versions: versions stated by the profiled program.
    """

    report: Path
    flags: Sequence[str]
    tool: Mapping[str, Any] = field(default_factory=dict)
    gpu: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)


def capture(
    profiler: ModuleType,
    workload: Sequence[str],
    name: str,
    *,
    options: Any = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Profile any command and keep the result as a redacted run folder.

    Args:
        profiler: the plugin.
        workload: the command, one string per argument.
        name: ``<run>`` or ``<gpu>/<run>``.
        options: the plugin's ``Options``; a ``window`` that is not given is chosen by ``default_window``.
        root: profiles folder.
        overwrite: replace a run of that name.

    Raises:
        UserError: the profiler is missing, the command fails, or nothing was measured.
    """
    known = called(profiler)
    check_command(workload, known)
    options = profiler.Options() if options is None else options
    # Empty = not given. Profilers without a window have no such option.
    if getattr(options, "window", None) == "":
        options = dataclasses.replace(options, window=default_window(workload))
    tool = profiler.available()
    if isinstance(tool, str) and not profiler.INFO.get("of_program"):
        raise UserError(tool)
    with prepared(name, root, overwrite) as work:
        found: Traced = profiler.trace(work, tool, list(workload), options)
        manifest = describe(known, getattr(tool, "version", None), found.flags, workload, work.said)
        manifest["tool"] |= found.tool
        # What the workload says of itself wins over what the profiler found out.
        manifest["gpu"] = {**found.gpu, **{k: v for k, v in manifest["gpu"].items() if v is not None}}
        manifest["versions"] = {**found.versions, **manifest["versions"]}
        return work.keep(found.report, manifest)


def called(profiler: ModuleType) -> str:
    """Return what a profiler is called on the command line."""
    return str(profiler.INFO.get("called", profiler.__name__.rpartition(".")[2].replace("_", "-")))


def option(default: Any, *flags: str, **parser: Any) -> Any:
    """Return a field of ``Options`` that is also an option of the command line.

    Args:
        default: its value if it is not given; a tuple means that it can be given several times.
        flags: such as ``-k``, ``--kernel``.
        parser: further arguments of ``add_argument``.
    """
    return field(default=default, metadata={"flags": flags, "parser": parser})


def window(what: str) -> Any:
    """Return the option ``--window``: ``all``, or ``profiler-api``: between the two calls that ``what`` names."""
    said = f"trace the whole command, or only {what} (default: profiler-api for moe_lab.gpu, else all)"
    return option("", "--window", choices=("all", "profiler-api"), help=said)


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Add the fields of ``Options`` to the command line."""
    for known in _fields(options):
        given = dict(known.metadata["parser"])
        if isinstance(known.default, bool):
            given["action"] = "store_true"
        elif isinstance(known.default, tuple):
            given |= {"action": "append", "default": []}
        else:
            given["default"] = known.default
        parser.add_argument(*known.metadata["flags"], dest=f"option_{known.name}", **given)


def given_options(options: type, arguments: argparse.Namespace) -> Any:
    """Return ``Options`` as they were given on the command line."""
    values = {known.name: getattr(arguments, f"option_{known.name}") for known in _fields(options)}
    return options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _fields(options: type) -> Iterator[Any]:
    return (known for known in dataclasses.fields(options) if "flags" in known.metadata)
