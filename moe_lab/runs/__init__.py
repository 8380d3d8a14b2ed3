"""Run folders: ``profiles/<gpu>/<run>/`` holds ``run.json`` and a small, redacted report, or a benchmark's rows."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from moe_lab.runs import redact, rows, run_json
from moe_lab.runs.manifest import build
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.runs.parse._slim import first_instances
from moe_lab.runs.ranks import together
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, scratch
from moe_lab.spec.guard.entry import below, one_line
from moe_lab.spec.guard.places import MANIFEST as MANIFEST
from moe_lab.spec.guard.places import full_name
from moe_lab.spec.guard.places import profiles_root as profiles_root
from moe_lab.spec.launches import Launches


@dataclass(frozen=True)
class Run:
    """A run folder, or a bare report file.

    Attributes:
        path: the folder, or the file.
        manifest: what ``run.json`` says; of a bare report only its name.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def report(self) -> Path:
        """The report: a file, or a folder for formats of several files; no link out of the run is followed."""
        named = self.manifest.get("report")
        return below(self.path, self.path / str(named)) if named else self.path

    @property
    def is_bench(self) -> bool:
        """Whether it holds the rows of a benchmark instead of a report."""
        return "rows" in self.manifest

    def rows(self) -> pd.DataFrame:
        """Read the rows of a benchmark; NA where a quantity is not known.

        Raises:
            UserError: it is a capture, or the rows cannot be read.
        """
        if not self.is_bench:
            raise UserError(f"'{self.manifest['name']}' is a capture, not a benchmark: it has launches, but no rows.")
        found = rows.read(self.report, self.manifest["rows"])
        if "dtype" in found and "format" not in found:  # an older run: its numbers were plain ones of the dtype
            found.insert(int(found.columns.get_loc("dtype")), "format", found["dtype"])  # type: ignore[arg-type]
        return found

    def launches(self) -> Launches:
        """Read the report, or those of all ranks.

        Raises:
            UserError: it is a benchmark, or a report is missing or cannot be read.
        """
        if self.is_bench:
            raise UserError(f"'{self.manifest['name']}' is a benchmark: it has rows, but no launches; give a capture.")
        options = {"allow_graph_level": True} if self.manifest.get("graph_level") else {}
        files = [below(self.path, self.path / name) for name in self.manifest.get("reports") or ()] or [self.report]
        parts = [parse_report(path, **options) for path in files]
        return parts[0] if len(parts) == 1 else together(parts)


def load(name_or_path: str | Path, *, root: Path | None = None) -> Run:
    """Return a run by its name (``<gpu>/<run>``, or ``<run>`` if only one GPU has it), its folder, or a report file.

    Raises:
        UserError: there is nothing of that name, or its ``run.json`` cannot be read.
    """
    path = Path(name_or_path)
    folder = root or profiles_root()
    if os.path.isfile(path) and path.name != MANIFEST:  # unlike Path's, also for names that no file can have
        return Run(path, {"name": path.name})
    for place in (path.parent if path.name == MANIFEST else path, folder / path):
        if os.path.isfile(place / MANIFEST):
            return _read(place)
    if os.path.isdir(path) and _is_report(path):
        return Run(path, {"name": path.name})
    runs = list_runs(folder)
    same = [r for r in runs if str(r.manifest["name"]).split("/")[-1] == str(name_or_path)]
    if len(same) == 1:
        return same[0]
    some = ", ".join(str(r.manifest["name"]) for r in same or runs) or "none"
    missing, said = "report in the folder" if os.path.isdir(path) else "run or report", one_line(shown(path), 100)
    raise UserError(f"There is no {missing} '{said}'; give a report file or one of the runs: {some}.")


def _is_report(folder: Path) -> bool:
    try:
        return bool(format_of(folder))
    except UserError:
        return False


def list_runs(root: Path | None = None) -> list[Run]:
    """Return the runs of a profiles folder that can be read, sorted by name."""
    return survey(root)[0]


def survey(root: Path | None = None) -> tuple[list[Run], list[str]]:
    """Return the runs of a profiles folder, sorted by name, and a sentence on each that cannot be read."""
    found: list[Run] = []
    broken: list[str] = []
    for folder in folders(root):
        try:
            found.append(_read(folder))
        except UserError as error:
            broken.append(str(error))
    return found, broken


def folders(root: Path | None = None) -> list[Path]:
    """Return the folders of the runs in a profiles folder, sorted by name; those too that cannot be read."""
    place = root or profiles_root()
    places.must_be_folder(place)
    found = sorted(place.glob(f"*/*/{MANIFEST}"))
    return [path.parent for path in found if not path.parent.name.startswith(".")]


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
            torch.profiler (.json, .json.gz), a folder of rocprofv3's CSV files, or one of rocprof-compute; several:
            one a rank, in order.
        name: ``<gpu>/<run>``, or ``<run>``: the GPU's name then comes from the report.
        root: profiles folder; by default ``profiles_root()``.
        manifest: what else is known (see ``run.json``): tool, command, date, gpu, versions, workload.
        overwrite: replace a run of that name.
        keep_root: regular expression; with ``keep_instances``, which ranges are the roots.
        keep_instances: keep only the first so many instances of each root, with what they need.
        max_bytes: refuse a larger report file.
        allow_graph_level: take a report without the kernels of its graph replays.
        held: what a capture claimed before it ran.

    Raises:
        UserError: the report cannot be read, the name is bad or taken, or the result is too large.
    """
    reports = [report] if isinstance(report, str | Path) else report
    with ExitStack() as open_:
        sources = [open_.enter_context(_as_sqlite(Path(one))) for one in reports]
        options = {"allow_graph_level": True} if allow_graph_level else {}
        parts = [parse_report(source, **options) for source in sources]
        if len(parts) > 1:
            together(parts)  # refuses what is not one report a rank before anything is written
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
            return _read(claim.finish())


@contextmanager
def _as_sqlite(report: Path) -> Iterator[Path]:
    """Give the report as SQLite, exported to a temporary file where it is a raw one."""
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
    """Write the small reports; return their names, what was left out, as sentences, and the host names they knew."""
    names: list[str] = []
    hosts: list[str] = []
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


def _read(folder: Path) -> Run:
    return Run(folder, run_json.read(folder / MANIFEST))


def shown(name: str | Path) -> str:
    """Return what a sentence may call a run, report or folder: of an absolute path only its last part."""
    return (Path(name).name or "/") if Path(name).is_absolute() else str(name)
