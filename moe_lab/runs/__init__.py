# SPDX-License-Identifier: Apache-2.0
"""Run folders: ``profiles/<gpu>/<run>/`` holds ``run.json`` and a small, redacted report, or a benchmark's rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moe_lab.runs import redact
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.runs.parse._slim import first_instances
from moe_lab.runs.ranks import together
from moe_lab.runs.run_json import build
from moe_lab.runs.stored import MissingRunError as MissingRunError
from moe_lab.runs.stored import Opened as Opened
from moe_lab.runs.stored import Run as Run
from moe_lab.runs.stored import folders as folders
from moe_lab.runs.stored import list_runs as list_runs
from moe_lab.runs.stored import load as load
from moe_lab.runs.stored import open as open
from moe_lab.runs.stored import read
from moe_lab.runs.stored import shown as shown
from moe_lab.runs.stored import survey as survey
from moe_lab.runs.stored import within as within
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, scratch
from moe_lab.spec.guard.places import MANIFEST as MANIFEST
from moe_lab.spec.guard.places import full_name
from moe_lab.spec.guard.places import profiles_root as profiles_root
from moe_lab.spec.launches import Launches


def import_report(
    report: Path | Sequence[Path],
    name: str,
    *,
    root: Path | None = None,
    manifest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    keep_root: str | None = None,
    keep_instances: int | None = None,
    max_bytes: int | None = None,
    allow_graph_level: bool = False,
    held: places.Claim | None = None,
) -> Run:
    """Make a run folder from a report: what the analysis reads, redacted. The folder is complete or absent.

    Args:
        report: an .sqlite export of Nsight Systems (or a .nsys-rep where nsys is installed), a trace of
            torch.profiler (.json, .json.gz), a folder of rocprofv3's CSV files, or a workload folder of
            rocprof-compute; several reports: one per rank, in order.
        name: ``<gpu>/<run>``, or ``<run>``: the GPU's name then comes from the report.
        root: profiles folder; by default ``profiles_root()``.
        manifest: what else is known and goes into ``run.json``: tool, command, date, gpu, versions, workload.
        overwrite: replace an existing run of that name.
        keep_root: regular expression; with ``keep_instances``, which ranges are the roots.
        keep_instances: keep only this many instances of each root, the first ones, with all that they refer to.
        max_bytes: refuse a larger report file.
        allow_graph_level: take a report without the kernels of its graph replays.
        held: the claim on the run folder that a capture made before it ran.

    Raises:
        UserError: the report cannot be read, the name is bad or taken, or the result is too large.
    """
    reports = [report] if isinstance(report, str | Path) else report
    with ExitStack() as open_:
        sources = [open_.enter_context(_as_sqlite(Path(one))) for one in reports]
        options = {"allow_graph_level": True} if allow_graph_level else {}
        parts = [parse_report(source, **options) for source in sources]
        if len(parts) > 1:
            together(parts)  # refuses reports that are not one per rank, before anything is written
        name = full_name(name, (parts[0].meta["gpu"] or {}).get("name"))
        with (
            redact.counting() as hidden,
            places.claim(root or profiles_root(), name, overwrite=overwrite, held=held) as claim,
        ):
            folder = claim.fresh()
            names, dropped, hosts = _shrink(sources, parts, folder, keep_root, keep_instances)
            _check_size(folder, max_bytes)
            known = build(parts[0], name, manifest or {}, names[0], dropped, hosts)
            known |= {"reports": names} if len(names) > 1 else {}
            known["source_report"] = {
                "schema": redact.tree(parts[0].meta["schema"], hosts),
                "size_bytes": sum(map(_size, sources)),
            }
            known["graph_level"] = allow_graph_level
            known["hidden"] = hidden.counts
            (folder / MANIFEST).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
            return read(claim.finish())


@contextmanager
def _as_sqlite(report: Path) -> Iterator[Path]:
    """Yield the report; a raw .nsys-rep is first exported to SQLite, into a temporary file."""
    if report.suffix != ".nsys-rep" or not report.is_file():
        yield report
        return
    with scratch.private() as place:
        exported = place.folder / f"{report.stem}.sqlite"
        plugins.load("capture", "nsys").export_sqlite(report, exported)
        yield exported


def _shrink(
    sources: Sequence[Path], parts: Sequence[Launches], out: Path, keep_root: str | None, keep_instances: int | None
) -> tuple[list[str], list[str], list[str]]:
    """Write the small reports; return (their names, sentences on what was left out, host names found in them)."""
    names: list[str] = []
    hosts: list[str] = []
    # A dict as an ordered set: the ranks of one run leave out the same things, which is said once.
    dropped: dict[str, None] = {}
    for rank, (source, launches) in enumerate(zip(sources, parts, strict=True)):
        kind = format_of(source)
        names.append((f"rank{rank}." if rank else "") + plugins.info("parse", kind)["report"])
        keep = first_instances(launches, keep_root, keep_instances) if keep_instances else None
        said, known = plugins.load("parse", kind).slim(source, out / names[-1], keep)
        hosts, dropped = [*hosts, *known], dropped | dict.fromkeys(said)
    if keep_instances:
        which = f"ranges that match '{keep_root}'" if keep_root else "the outermost measured ranges"
        dropped[f"Left out: all but the first {keep_instances} instances of {which}."] = None
    return names, list(dropped), hosts


def _check_size(folder: Path, max_bytes: int | None) -> None:
    size = _size(folder)
    if max_bytes is not None and size > max_bytes:
        raise UserError(
            f"The run would be {size / 1e6:.1f} MB, more than the {max_bytes / 1e6:.1f} MB allowed; keep fewer "
            "instances of the measured range, or allow a larger one."
        )


def _size(report: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [p for p in report.rglob("*") if p.is_file()] if report.is_dir() else [report]
    return sum(p.stat().st_size for p in files)
