# SPDX-License-Identifier: Apache-2.0
"""Report formats, one file each."""

import os
from pathlib import Path
from typing import Any

from moe_lab.runs.ranks import stated
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import below, one_line
from moe_lab.spec.launches import Launches

# Ends of names, or words at the beginning of files -> what to make instead.
INSTEAD = {
    (".pftrace", ".otf2"): ": it is of rocprofv3; run that with `--output-format csv`, json or rocpd",
    ('"Correlation_Id"', '"AverageNs"'): ": it is of rocprofv3, but no kernel trace; give the folder in which it lies",
    ('"KernelName","gpu-id"', ",KernelName,gpu-id,"): ": it is of rocprof before version 3; trace with `rocprofv3`",
    (".qdrep", ".qdstrm"): ": it is of Nsight Systems; open it with `nsys export --type=sqlite`, or capture again",
}


def parse_report(path: Path, **options: Any) -> Launches:
    """Read a report of any format that a plugin of this folder knows.

    Args:
        path: the report: a file, or a folder for formats of several files.
        **options: keyword arguments for the plugin's ``parse``; those that its ``INFO`` does not list are left out.

    Raises:
        UserError: no plugin reads the file, or the plugin that does finds something wrong with it.
    """
    name = format_of(Path(path))
    if Path(path).is_dir():
        _refuse_links_out(Path(path))
    taken = plugins.info("parse", name).get("options", ())
    launches: Launches = plugins.load("parse", name).parse(
        Path(path), **{k: v for k, v in options.items() if k in taken}
    )
    return stated(launches)


def _refuse_links_out(folder: Path) -> None:
    """Refuse a folder with a link that leads out of it: only the folder was given to us to read."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                below(folder, path)


def format_of(path: Path) -> str:
    """Return the plugin that reads a report; raises UserError if there is no such report, or no plugin reads it."""
    if path.suffix == ".nsys-rep":
        raise UserError(
            f"{path.name} is a raw Nsight Systems report; run `nsys export --type=sqlite -o {path.stem}.sqlite "
            f"{path.name}` and give the .sqlite file, or let `moe-lab import` do that."
        )
    if not os.path.exists(path):  # Path.exists raises for names that no file can have
        raise UserError(f"There is no report {one_line(path.name, 100)}; give the path of a report file that exists.")
    if path.is_file() and not path.stat().st_size:
        raise UserError(f"{path.name} is empty: what should have written it was stopped; make it again.")
    names = plugins.names("parse")
    for name in names:
        folder = plugins.info("parse", name).get("folder", False)
        if (path.is_file() or (folder and path.is_dir())) and plugins.load("parse", name).sniff(path):
            return name
    known = " (" + "; ".join(f"{name}: {plugins.info('parse', name)['about']}" for name in names) + ")"
    raise UserError(f"{path.name} is not in a format that moe-lab reads{_hint(path) or known}.")


def _hint(path: Path) -> str:
    """Return which format to make instead, for formats of known profilers that are not read."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(4096)
    found = (said for marks, said in INSTEAD.items() if path.suffix in marks or any(m.encode() in head for m in marks))
    return next(found, "")
