# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu bench-ep``: start the ranks, measure, and write the rows.

The first process starts as many others as there are ranks; those measure together, and rank 0 appends the rows.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch

from moe_lab.gpu import launch
from moe_lab.gpu.bench import links, result
from moe_lab.gpu.bench.beforehand import one_takes, small_on_cpu
from moe_lab.gpu.bench.ep import EpCase, EpPlan, EpWeights, ep_rows
from moe_lab.gpu.bench.meet import attempt
from moe_lab.gpu.experts import load
from moe_lab.gpu.ranks import load_sharing
from moe_lab.gpu.routing import parse_spec
from moe_lab.gpu.weights import PRODUCTS
from moe_lab.gpu.workloads.window import say
from moe_lab.spec import bench_options, formats, plugins
from moe_lab.spec.bench_options import EP_KEY, listed, numbers
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    bench = bench_options.command(commands, "bench-ep", "time the experts part on several ranks", run)
    bench_options.add("ep", bench)
    bench.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Start the ranks or, if this process is one, measure; return a summary for stdout, as a rank None.

    Raises:
        UserError: an unknown plugin, routing or size, too few GPUs, a missing output folder, or a rank that died.
    """
    if launch.is_rank(options.ranks):
        with launch.joined(options.device, options.patience) as (rank, device):
            measure(options, rank, device)
        return None
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"The folder of --out '{options.out}' does not exist; make it first.")
    cases = _cases(options)  # a mistake is reported here, before processes are started
    for case in cases:
        Parallel.read(options.placement, case.problem.routed.E, options.ranks)
    problems = [case.problem.routed for case in cases]
    launch.check(options.ranks, options.device)
    if not all(plugins.info("comm", name).get("whole") for name in comms(options)):
        load_sharing(options.backend)
        one_takes([options.backend], problems, options.device)
    small_on_cpu(problems, options.device, ranks=options.ranks)
    options.out.unlink(missing_ok=True)
    launch.again(options)
    return {"bench": "ep", "rows": len(result.finished(options.out)) - 2, "out": options.out.name}


def measure(options: argparse.Namespace, rank: int, device: torch.device) -> None:
    """Measure every case as one of the ranks; rank 0 writes the file."""
    multiplied = formats.get(options.format).multiplied
    against, found = result.measured(device, PRODUCTS[multiplied]), list[dict[str, Any]]()
    if why := attempt(lambda: found.extend(links.measure(device))):
        say(f"The links were not measured, so there is no floor ({why}).")
    against["links"] = found
    plan = EpPlan(comms(options), options.backend, options.repetitions, found, against["roofs"])
    weights: EpWeights | None = None
    _append(options, rank, [_header(options, plan, device, against)])
    for case in _cases(options):
        parallel = Parallel.read(options.placement, case.problem.routed.E, options.ranks, rank)
        if weights is None or weights.model != case.problem.model:
            weights = None  # before the next are made: two models may not fit
            weights = EpWeights(case.problem, device, case.seed)
        _append(options, rank, ep_rows(case, plan, parallel, weights, device))
        gc.collect()  # graphs of the case hold the memory that the next one needs
        if device.type == "cuda":
            torch.cuda.empty_cache()
    _append(options, rank, [{"complete": True}])


def _append(options: argparse.Namespace, rank: int, lines: list[dict[str, Any]]) -> None:
    if rank == 0:
        with options.out.open("a") as file:
            result.append(file, lines)


def _header(options: argparse.Namespace, plan: EpPlan, device: torch.device, against: dict[str, Any]) -> dict[str, Any]:
    settings = {
        name: getattr(options, name) for name in ("ranks", "backend", "format", "shared", "repetitions", "seed")
    }
    settings |= {"models": listed(options.model), "M": numbers(options.m), "comm": plan.comms}
    settings |= {"routing": listed(options.routing), "placement": Path(options.placement).name}
    arguments = ["bench-ep", *bench_options.argv("ep", options)]
    return result.header("ep", EP_KEY, arguments, settings, device, against)


def comms(options: argparse.Namespace) -> list[str]:
    """Return the asked comm plugins; ``all`` means those for several ranks that can run here, with this backend.

    Raises:
        UserError: there is no plugin of a name.
    """
    if options.comm != "all":
        return listed(options.comm, tuple(plugins.names("comm")))
    able = [name for name in plugins.names("comm") if plugins.unavailable("comm", name) is None]
    known = {name: plugins.info("comm", name) for name in able}
    here = [name for name, info in known.items() if options.device in info.get("devices", ("cuda", "cpu"))]
    takes = [name for name in here if options.format in known[name].get("formats", [options.format])]
    laid = ("standard", *plugins.info("experts", options.backend.partition("@")[0]).get("inputs", ()))
    return [name for name in takes if known[name]["ranks"] == "any" and known[name]["layout"] in laid]


def _cases(options: argparse.Namespace) -> list[EpCase]:
    load(options.backend)
    for spec in listed(options.routing):
        parse_spec(spec)
    return [
        EpCase(MoEProblem.preset(model, M, options.format, options.shared), routing, options.seed)
        for model in listed(options.model)
        for routing in listed(options.routing)
        for M in numbers(options.m)
    ]
