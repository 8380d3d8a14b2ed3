# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu tune``: find tiles on a GPU and append the measurements to a file of JSON lines.

This process only supervises another one, which plans, has a pool of further processes compile, and measures.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moe_lab.gpu.bench import result
from moe_lab.gpu.bench.align import one_line
from moe_lab.gpu.bench.beforehand import small_on_cpu
from moe_lab.gpu.bench.examine import Weights, answers, refuse
from moe_lab.gpu.bench.supervise import TuneState, note_path, supervise_tuning
from moe_lab.gpu.bench.tune import search
from moe_lab.gpu.bench.tune.case import Case, centres
from moe_lab.gpu.bench.tune.journal import KEY, Journal
from moe_lab.gpu.bench.tune.session import Session
from moe_lab.gpu.bench.tune.steps import Budget, compile_all, judge_between, tune_all
from moe_lab.gpu.routing import parse_spec
from moe_lab.gpu.weights import PRODUCTS
from moe_lab.spec import architectures, bench_options, formats, plugins
from moe_lab.spec.architectures import Card
from moe_lab.spec.bench_options import numbers
from moe_lab.spec.configs import Sizes, parse
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.options import seconds
from moe_lab.spec.problem import MoEProblem


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    tune = bench_options.command(commands, "tune", "find tiles", run)
    bench_options.add("tune", tune)
    tune.add_argument("--out", type=Path, metavar="FILE", help="JSON lines to append to")
    tune.add_argument("--until", type=float, help=argparse.SUPPRESS)
    tune.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    tune.add_argument("--compiler", action="store_true", help=argparse.SUPPRESS)
    tune.add_argument("--static", metavar="ARCH,...", help="compile the tiles for these GPUs, which need not be here")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Supervise the tuning, or be the process that measures or one that compiles; return a summary for stdout.

    Raises:
        UserError: no GPU, an unknown model, routing or dtype, or a file that another tuning run has begun.
    """
    if options.static:
        from moe_lab.gpu.inspect import tiles

        return tiles.run(options)
    settings = _settings(options)
    if options.compiler:
        return serve(options)
    if options.out is None or not options.out.resolve().parent.is_dir():
        raise UserError("Give --out a file in a folder that exists.")
    if options.state:
        return work(options, settings)
    small_on_cpu([MoEProblem.preset(options.model, M, options.format) for M in settings["M"]], options.device)
    until = time.time() + seconds(options.budget)
    argv = [sys.executable, "-m", "moe_lab.gpu", "tune", *bench_options.argv("tune", options)]
    # While a compiling process uses up its own patience, the note does not change.
    argv += ["--out", str(options.out), "--until", str(until)]
    supervise_tuning(argv, options.out, 2 * options.patience + 60, until)
    journal = Journal(options.out)
    return {"bench": "tune", "rows": len(journal.rows), "complete": journal.complete, "out": options.out.name}


def work(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Plan, compile and measure what is not in the file yet; see ``run``."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; tuning needs one.")
    budget = Budget(time.time(), options.until)
    journal = Journal(options.out)
    if journal.header is None:
        arguments = ["tune", *bench_options.argv("tune", options)]
        against = result.measured(device, PRODUCTS[formats.get(options.format).multiplied])
        journal.begin(result.header("tune", KEY, arguments, settings, device, against))
    _refuse_strangers(journal, settings)
    note, state = note_path(options.state), TuneState.read(options.state)

    def noted(keys: Any) -> None:
        note.write_text(json.dumps(list(keys)))

    preset = partial(MoEProblem.preset, options.model, format=options.format)
    problems = [preset(M) for M in settings["M"]]
    rounds, most = ((1, 1), 2) if device.type == "cpu" else (search.ROUNDS, 60)
    session = Session(
        *(options.backend, options.routing, options.seed, journal, state, noted, device), rounds=rounds, most=most
    )
    middles = search.between(settings["M"], options.between)
    argv = [sys.executable, "-m", "moe_lab.gpu", "tune", *bench_options.argv("tune", options), "--compiler"]
    plans = plan(options, problems, device)
    compile_all(session, problems, plans, argv, options, budget)
    weights = Weights(problems[0], device, options.seed)

    def case(M: int) -> Case:
        return Case(preset(M), options.backend, weights, options.routing, options.seed, device)

    tune_all(session, problems, plans, case, budget)
    judge_between(session, middles, case, budget)
    tuned, judged = ({row["M"] for row in journal.of(phase=phase)} for phase in ("final", "between"))
    if tuned == set(settings["M"]) and {M for M, _, _ in middles} <= judged:
        journal.end()
    return {"rows": len(journal.rows)}


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """Answer each task on stdin with a line on stdout: does the tile compile and run on a small problem?"""
    device, done = torch.device(options.device), 0
    cases: dict[int, Case] = {}
    for line in sys.stdin:
        task, error = json.loads(line), None
        try:
            small = search.small(MoEProblem.preset(options.model, task["M"], options.format))
            if small.M not in cases:
                weights = Weights(small, device, options.seed)
                cases[small.M] = Case(small, options.backend, weights, "uniform", options.seed, device)
            # The partner only has to share block_m and to be known to work.
            tile, own = parse(task["tile"]), centres(options.backend, small)
            pair = (tile, own[tile[0]]) if task["part"] == "w13" else (own[tile[0]], tile)
            cases[small.M].call(pair)
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as failure:  # only this tile is lost
            error = one_line(failure)
        print('{"task":1,"error":' + json.dumps(error) + "}", flush=True)  # noqa: T201
        done += 1
        if error and device.type == "cuda" and not answers():  # the pool starts a new process for the other tasks
            break
    return {"compiled": done}


def plan(
    options: argparse.Namespace, problems: list[MoEProblem], device: torch.device
) -> dict[int, dict[tuple[str, int], list[Sizes]]]:
    """Return M -> (part, block_m) -> tiles to try."""
    from moe_lab.gpu.kernels._device import shared_memory_bytes

    memory = 232448  # of Hopper, as there is no GPU to ask
    if device.type == "cuda":
        memory = shared_memory_bytes(torch.cuda.current_device())
    limits = limits_of(options.backend, options.format, memory, _amd() if device.type == "cuda" else None)
    own = centres(options.backend, problems[0])
    return {p.M: search.plan(p, own, limits, options.candidates) for p in problems}


def limits_of(backend: str, format: str, shared_memory_bytes: int, amd: Card | None) -> search.Limits:
    """Return what tiles of a backend may use on a GPU with so much shared memory; ``amd``: the GPU if it is AMD's."""
    known = formats.get(format)
    itemsize = PRODUCTS[known.multiplied].itemsize
    return search.Limits(shared_memory_bytes, itemsize, backend == "grouped" and not amd, known.block_shape, amd)


def _amd() -> Card | None:
    """Return the card that has the architecture of the current GPU, if it is one of AMD that is known."""
    from moe_lab.gpu.kernels._device import is_hip

    if not is_hip():
        return None
    arch = torch.cuda.get_device_properties(torch.cuda.current_device()).gcnArchName.partition(":")[0]
    return next((card for card in architectures.cards() if card.amd and card.arch == arch), None)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    tokens = sorted(numbers(options.m))
    parse_spec(options.routing)
    seconds(options.budget)
    if min(tokens) < 1 or options.candidates < 1 or options.between < 0 or options.jobs < 0:
        raise UserError("Use at least one token and one candidate, and no negative numbers.")
    info = plugins.info("experts", options.backend)
    if not info.get("tile"):
        raise UserError(f"'{options.backend}' does not take tiles; choose another backend.")
    refuse(options.backend, info, MoEProblem.preset(options.model, 1, options.format), torch.device(options.device))
    same = ("model", "backend", "format", "routing", "seed", "candidates", "between")
    return {"M": tokens} | {name: getattr(options, name) for name in same}


def _refuse_strangers(journal: Journal, settings: dict[str, Any]) -> None:
    from moe_lab.gpu.workloads.record import versions

    begun = journal.header or {}
    if begun["settings"] != settings:
        wrong = [name for name in settings if begun["settings"].get(name) != settings[name]]
        raise UserError(
            f"An unfinished tuning run with that name has other settings ({', '.join(wrong)} differ): use --overwrite."
        )
    # Other compilers make other kernels, so times before and after could not be compared.
    if any(begun["versions"].get(name) != value for name, value in versions().items()):
        raise UserError(
            "An unfinished tuning run with that name was measured with other versions: start again with --overwrite."
        )
