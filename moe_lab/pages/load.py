# SPDX-License-Identifier: Apache-2.0
"""From the names in a notebook's parameters to what its analysis takes: the only module of pages that reads runs."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain, count
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import (
    align,
    align_steps,
    amd,
    captures,
    counters,
    ep,
    gemms,
    history,
    join,
    limits,
    phases,
    ranks,
    static_check,
    support,
    sweep,
    tuning,
)
from moe_lab.analysis.amd import memory
from moe_lab.analysis.amd.runs import Counted, only
from moe_lab.runs import Run
from moe_lab.runs.capture._facts import gpu_name
from moe_lab.spec.errors import UserError

# Commands that make the runs that pages look for; the note on a missing run quotes them.
CAPTURE = "moe-lab capture nsys --name align_steps -- python -m moe_lab.gpu align"
COUNT = "moe-lab capture ncu --name align_counters --ranges moe_lab@align/ -- python -m moe_lab.gpu align"
COUNT_EXPERTS = (
    "moe-lab capture ncu --name experts_counters_fused_moe --ranges moe_lab@w13/ --ranges moe_lab@w2/ -- "
    "python -m moe_lab.gpu experts"
)
TIME_EXPERTS = "moe-lab capture nsys --name experts_timeline -- python -m moe_lab.gpu experts"
LAYER = "moe-lab capture nsys --name layer -- python -m moe_lab.gpu layer"
AMD = "moe-lab capture rocprof-compute --name counted -- COMMAND"


def align_bench(name: str) -> align.Bench:
    """Return a run of the align benchmark, as ``runs.open`` finds it, or a sentence on why there is none."""
    return align.Bench(*_bench("align", name, align.COLUMNS))


def align_benches() -> list[align.Bench]:
    """Return the runs of the align benchmark in profiles/."""
    return [align_bench(name) for name in _named("align")]


def experts_bench(name: str) -> sweep.Sweep:
    """Return a run of the experts benchmark, as ``runs.open`` finds it, or a sentence on why there is none."""
    return sweep.Sweep(*_bench("experts", name, sweep.COLUMNS))


def experts_benches(pattern: str) -> list[sweep.Sweep]:
    """Return the runs of the experts benchmark in profiles/ whose names match a pattern with ``*``, ``?`` or ``[]``."""
    return [experts_bench(name) for name in _named("experts") if fnmatchcase(name, pattern)]


def _named(bench: str) -> list[str]:
    return [str(run.manifest["name"]) for run in runs.list_runs() if run.manifest.get("bench") == bench]


def backends(pattern: str = "*") -> pd.DataFrame:
    """Return the matrix of backends (``support.matrix``) for this machine's GPU, with the benchmarks of a pattern."""
    return support.matrix(gpu_name(), experts_benches(pattern))


def ep_bench(name: str) -> ep.Bench:
    """Return a run of the benchmark of several ranks, as ``runs.open`` finds it, or a sentence on why there is none."""
    return ep.Bench(*_bench("ep", name, ep.COLUMNS))


def ranked(name: str) -> ranks.Capture:
    """Return a capture of several ranks, or a sentence on how to make it."""
    found = runs.open(name, ranks.CAPTURE)
    steps = ranks.of_run(found.run, found.run.launches()) if found.run else None
    return ranks.Capture(found.run, steps, found.missing.partition(" There are: ")[0])  # those are of one GPU


def tuned(name: str) -> tuning.Tuning:
    """Return a run of a tuning, as ``runs.open`` finds it, or a sentence on why there is none."""
    return tuning.Tuning(*_bench("tune", name, tuning.COLUMNS))


def compiled(name: str) -> pd.DataFrame:
    """Return the rows of a run of ``moe-lab inspect``; raises UserError if there is none of that name."""
    return runs.load(name).rows()


def points(where: str) -> tuple[list[history.Point], list[str]]:
    """Return the runs in a folder, or whose names begin so, as points in time, and sentences on those left out."""
    found, left = [], []
    for run in runs.within(where):
        try:
            found.append(history.of_bench(run, run.rows()) if run.is_bench else history.of_capture(run, run.launches()))
        except UserError as error:
            left.append(f"{run.manifest['name']} is left out: {error}")
    return found, left


def checks(captures_of: Sequence[str], compiled_runs: Sequence[str]) -> list[static_check.Check]:
    """Return captures of counters beside what the same Triton compiled for the same GPU; see ``runs.within``."""
    made = [(run, run.rows()) for where in compiled_runs for run in runs.within(where)]
    found = []
    for name in captures_of:
        run = runs.load(name)
        launches = run.launches()
        counted = counters.counters_table(launches, ["occupancy_theoretical_pct"])
        gpu = captures.gpu_facts(run, launches.meta).get("name")
        same = {
            one.manifest["name"]: rows for one, rows in made if _triton(one) == _triton(run) and gpu in set(rows["gpu"])
        }
        found.append(static_check.check(name, run.manifest, same, counted))
    return found


def _triton(run: Run) -> str | None:
    return (run.manifest.get("versions") or {}).get("triton")


def _bench(bench: str, name: str, columns: Sequence[str]) -> tuple[Run | None, pd.DataFrame, str, list[Run]]:
    """Return (run, rows with NA in missing columns, sentence on a missing run, runs in which to look for roofs)."""
    command = "tune" if bench == "tune" else f"bench {bench}"
    found = runs.open(name, f"moe-lab {command} --name {name.split('/')[-1] or 'X'}", bench=bench)
    if found.run is None:
        return None, pd.DataFrame(columns=list(columns), dtype="object"), found.missing, []
    rows = found.run.rows()
    # Older runs lack columns that have come since.
    return found.run, rows.reindex(columns=[*dict.fromkeys([*rows.columns, *columns])]), "", runs.list_runs()


def steps(name: str, make: str = CAPTURE) -> align_steps.Capture:
    """Return a capture of ``moe_lab.gpu align``, or a sentence on how to ``make`` it."""
    found = runs.open(name, make)
    return align_steps.Capture(found.run, found.run.launches() if found.run else None, found.missing)


def layers(names: Mapping[str, str], layer_range: str, capture_command: str = "") -> list[phases.Phase]:
    """Load the runs of a layer's phases, or capture a command now and use that run instead.

    ``names`` maps phases to runs, where an empty name leaves the phase out; ``layer_range`` is a regular expression of
    the range that is one layer.
    """
    if capture_command:
        run = _there(runs.open(capture_command, commands=True))
        chosen = {str((run.manifest.get("workload") or {}).get("phase") or "capture"): run}
    else:
        chosen = {phase: _there(runs.open(name, LAYER)) for phase, name in names.items() if name}
    if not chosen:
        raise UserError(f"There is no run to look at: give at least one of {', '.join(f'{p}_run' for p in names)}.")
    known = runs.list_runs()
    return [replace(phases.phase(name, run, run.launches(), layer_range), known=known) for name, run in chosen.items()]


def _there(found: runs.Opened) -> Run:
    if found.run is None:
        raise UserError(found.missing)
    return found.run


def counts(names: Sequence[str], backends: Sequence[str] = (), M: Sequence[int] = ()) -> captures.Captures:
    """Load captures of counters, or timelines, of any GPUs; missing ones become sentences. Empty lists keep all."""
    found: dict[str, Run] = {}
    gpus: dict[str, dict[str, Any]] = {}
    missing, notes, parts, of = [], [], [], dict[str, str]()
    for name in names:
        opened = runs.open(name, COUNT_EXPERTS)
        if opened.run is None:
            missing.append(opened.missing)
            continue
        run = opened.run
        launches = run.launches()
        shown, facts = _apart(str(run.manifest["name"]), found), captures.gpu_facts(run, launches.meta)
        facts |= {"roofs": memory.roofs(launches)} if launches.meta.get("roofs") else {}
        gpu = of[shown] = captures.short_gpu(facts.get("name")) or f"an unknown GPU ({shown})"
        # The first run that states a fact counts; later ones fill in what it lacks.
        gpus[gpu] = {**facts, **{k: v for k, v in gpus.get(gpu, {}).items() if v is not None}}
        found[shown] = run if run.manifest.get("gpu") else replace(run, manifest={**run.manifest, "gpu": facts})
        notes += [counters.AMD_NOTE] if amd.has_counters(launches) else []
        parts.append(gemms.gemms(launches, run.manifest.get("workload") or {}, facts).assign(run=shown, gpu=gpu))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*gemms.ALL_COLUMNS, "gpu"])
    table = table[_wanted(table, "backend", backends) & _wanted(table, "M", M)].reset_index(drop=True)
    said = [*captures.notes_on(table, of), *dict.fromkeys(notes)]
    return captures.Captures(found, table, gpus, missing, said, known=runs.list_runs())


def _apart(name: str, others: Container[str]) -> str:
    """Return the name, with a number if another run has it."""
    numbered = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(shown for shown in numbered if shown not in others)


def _wanted(table: pd.DataFrame, column: str, values: Sequence[Any]) -> "pd.Series[bool]":
    return table[column].isin(values) if values else pd.Series(True, index=table.index)


def beside_timeline(counted: captures.Captures, timeline: str) -> captures.Captures:
    """Return captures with a timeline's times, NA on other GPUs, and its notes, gaps and run; "" is no timeline."""
    if not timeline or counted.table.empty:
        return counted
    opened = runs.open(timeline, TIME_EXPERTS)
    if opened.run is None:
        return replace(counted, missing=[*counted.missing, opened.missing])
    run, launches = opened.run, opened.run.launches()
    gpu = captures.short_gpu(captures.gpu_facts(run, launches.meta).get("name"))
    # Readers would compare a time from another GPU with the counters in the same row.
    if not (own := counted.table["gpu"] == gpu).any():
        of = f"The timeline {run.manifest['name']} is of {gpu or 'an unknown GPU'}"
        return replace(counted, notes=[*counted.notes, f"{of}, so no counters here get its times."])
    joined = join.join(counted.table[own], launches)
    table = counted.table.assign(**{c: joined[c].reindex(counted.table.index) for c in ("timeline_us", "apart_pct")})
    about = "" if own.all() else f"On {gpu}: "
    notes = [*counted.notes, *(f"{about}{note}" for note in joined.attrs["notes"])]
    shown = table[["series", "M"]].drop_duplicates()  # the page tells only the gaps of the GEMMs that it shows
    gaps = limits.gaps(launches).assign(gpu=gpu).merge(shown, on=["series", "M"])
    named = {**counted.runs, str(run.manifest["name"]): run}
    return replace(counted, runs=named, table=table, notes=notes, gaps=gaps)


def amd_counts(folders: str | Sequence[str] = "", kernels: str = "") -> list[Counted]:
    """Load runs with counters of AMD GPUs, or workload folders; several as a sequence or separated by commas.

    Without ``folders``, all runs of rocprof-compute in profiles/; ``kernels`` is a regular expression of full names.
    """
    named = folders.split(",") if isinstance(folders, str) else folders
    given = [_there(runs.open(n.strip(), AMD)) for n in named if n.strip()]
    found = given or [r for r in runs.list_runs() if (r.manifest.get("tool") or {}).get("name") == "rocprof-compute"]
    every: list[Counted] = []
    for run in found:
        if not (launches := run.launches()).meta.get("counters"):
            made = "give a workload folder that it made"
            raise UserError(f"{run.manifest['name']} has no counters of AMD's rocprof-compute; {made}.")
        shown = _apart(str(run.manifest["name"]), [one.name for one in every])
        every.append(Counted(shown, run, launches))
    if not kernels or not every:
        return every
    chosen = [replace(r, launches=only(r.launches, kernels)) for r in every]
    kept = [r for r in chosen if len(r.launches.table)]
    if kept:
        return kept
    raise UserError(f"No kernel of {', '.join(r.name for r in every)} matches '{kernels}'; give another expression.")
