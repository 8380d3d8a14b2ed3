# SPDX-License-Identifier: Apache-2.0
"""A benchmark over many machines: its cases one by one on dask's workers, kept as they come, put together as a run."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_lab import runs
from moe_lab.runs import bench_runs, cluster, rows
from moe_lab.spec import bench_options
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, scratch
from moe_lab.spec.guard.entry import decode_json, one_line
from moe_lab.spec.guard.places import full_name

PROGRAM = ("-m", "moe_lab.gpu")  # after python, on a worker
# Options that are lists of which a case takes one value each; backends stay together, as they must be interleaved.
SPLIT = {
    "experts": ("model", "format", "routing", "m"),
    "align": ("experts", "topk", "block_m", "routing", "tokens"),
}
_NUMBERS = ("m", "experts", "topk", "block_m", "tokens")


def cases(bench: str, options: argparse.Namespace) -> list[list[str]]:
    """Return the command-line options of every case of a benchmark.

    Args:
        bench: ``experts`` or ``align``.
        options: as parsed by ``bench_options.add``.
    """
    names = SPLIT[bench]
    read = [bench_options.numbers if name in _NUMBERS else bench_options.listed for name in names]
    values = [of(getattr(options, name)) for of, name in zip(read, names, strict=True)]
    points: list[dict[str, Any]] = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    possible = [point for point in points if bench != "align" or point["topk"] <= point["experts"]]
    return [bench_options.argv(bench, _with(options, point)) for point in possible]


def _with(options: argparse.Namespace, point: dict[str, Any]) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), **{name: str(value) for name, value in point.items()}})


def measure(
    bench: str,
    options: argparse.Namespace,
    name: str,
    on: str,
    *,
    root: Path | None = None,
    overwrite: bool = False,
) -> tuple[list[runs.Run], list[str]]:
    """Run the cases of a benchmark on the workers of ``on`` and keep their rows as a run, one for each kind of GPU.

    Every case is written to a file beside the run as it ends. If the command is stopped or a case fails, the same
    command goes on with what is missing.

    Args:
        bench: ``experts`` or ``align``.
        options: as parsed by ``bench_options.add``.
        name: ``<run>`` or ``<gpu>/<run>``.
        on: one of ``cluster.PLACES``.
        root: profiles folder.
        overwrite: start again from the first case, and replace runs of that name.

    Returns:
        The runs, and a sentence on each case that failed, or on being stopped.

    Raises:
        UserError: ``on`` or the name does not fit, workers differ in software, or no case has a result.
    """
    place = root or places.profiles_root()
    full_name(name, None)  # refuses what cannot be a name
    journal = place / f".sweep-{name.replace('/', '_')}.jsonl"
    every = cases(bench, options)
    if overwrite:
        journal.unlink(missing_ok=True)
    elif not journal.exists() and any(place.glob(name if "/" in name else f"*/{name}")):
        raise UserError(f"A finished run '{name}' already exists; choose another name or pass --overwrite.")
    place.mkdir(parents=True, exist_ok=True)
    results = dict(_kept(journal))
    failed = _collect(bench, [words for words in every if json.dumps(words) not in results], on, journal)
    results = {words: text for words, text in _kept(journal) if json.loads(words) in every}
    if not results:
        raise UserError(f"No case has a result: {' '.join(failed) or 'all were stopped.'}")
    argv = ["moe-lab", "bench", bench, *bench_options.argv(bench, options), "--name", name.split("/")[-1]]
    command = [*argv, "--on", on.partition(":")[0]]  # without addresses
    made = _runs(list(results.values()), name, place, command, whole=len(results) == len(every))
    if len(results) == len(every):
        journal.unlink()
    return made, failed


def _kept(journal: Path) -> Iterator[tuple[str, str]]:
    """Yield (options as JSON, result) of the cases that a journal has; a torn last line is left out."""
    if not journal.exists():
        return
    for line in journal.read_text().splitlines():
        try:
            one: dict[str, Any] = decode_json(line, dict[str, Any])
            yield json.dumps(one["case"]), str(one["result"])
        except (ValueError, KeyError):
            continue


def _collect(bench: str, left: list[list[str]], on: str, journal: Path) -> list[str]:
    """Run cases on the workers and append each to the journal as it ends; return sentences on what failed."""
    from tqdm import tqdm

    if not left:
        return []
    failed = []
    with cluster.client(on) as client:
        from distributed import as_completed

        words = [[*PROGRAM, f"bench-{bench}", *options] for options in left]
        of = dict(zip((futures := client.map(cluster.case, words, pure=False)), left, strict=True))
        try:
            with journal.open("a") as file, tqdm(total=len(left), unit="case", file=sys.stderr, disable=None) as bar:
                for future in as_completed(futures):
                    options, wrong = of[future], _ended(future)
                    if wrong:
                        failed.append(f"Case {' '.join(options) or 'of all defaults'}: {wrong}")
                    else:
                        file.write(json.dumps({"case": options, "result": future.result().result}) + "\n")
                        file.flush()
                    bar.update()
        except KeyboardInterrupt:
            client.cancel(futures)
            failed.append("It was stopped from the keyboard; the same command goes on.")
    return failed


def _ended(future: Any) -> str:
    """Return why a case has no result; empty if it has one."""
    if future.status == "error":
        return f"the worker failed ({type(future.exception()).__name__})."
    done: cluster.Done = future.result()
    if done.code == 0 and done.result:
        return ""
    said = one_line(done.said.strip().splitlines()[-1] if done.said.strip() else "nothing", 200)
    return f"the process {bench_runs.stopped(done.code)} and said: {said}"


def _runs(texts: list[str], name: str, place: Path, command: list[str], whole: bool) -> list[runs.Run]:
    """Put results together, one run for each kind of GPU."""
    with scratch.private() as private:
        found: dict[str, list[rows.Result]] = {}
        for number, text in enumerate(texts):
            path = private.folder / f"{number}.json"
            path.write_text(text)
            result = rows.read_result(path)
            found.setdefault(str((result.header.get("gpu") or {}).get("name")), []).append(result)
        made = []
        for number, results in enumerate(found.values()):
            bench_runs.refuse_strangers([f"case {n}" for n, _ in enumerate(results, 1)], results)
            path = private.folder / f"whole-{number}.json"
            path.write_text("".join(json.dumps(line) + "\n" for line in _together(results, whole)))
            given = {"command": command}
            made.append(bench_runs.import_bench([path], name, root=place, manifest=given, overwrite=True))
        return made


def _together(results: Sequence[rows.Result], whole: bool) -> Iterator[dict[str, Any]]:
    """Yield the lines of one result: the first header with the settings of all, every row, and whether that is all."""
    settings = [result.header.get("settings") or {} for result in results]
    yield {**results[0].header, "settings": _settings(settings)}
    for result in results:
        yield from result.rows
    if whole and all(result.complete for result in results):
        yield {"complete": True}


def _settings(every: Sequence[Any]) -> dict[str, Any]:
    """Return settings with the values of all cases: lists joined, in order and without repeats."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in every for key in one):
        values = [one.get(key) for one in every]
        lists = all(isinstance(value, list) for value in values)
        merged[key] = list(dict.fromkeys(v for value in values for v in value)) if lists else values[0]
    return merged
