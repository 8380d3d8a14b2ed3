# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu bench-experts``: run the experts benchmark and write its rows.

The file has JSON lines like the align benchmark's: a header, a line per row, appended as each case is measured, then
``{"complete": true}``. This process only supervises another one, which measures: see ``supervise``.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moe_lab.gpu.bench import result, supervise
from moe_lab.gpu.bench.beforehand import one_takes, small_on_cpu
from moe_lab.gpu.bench.cases import ExpertsCase, experts_rows
from moe_lab.gpu.bench.examine import Plan, Weights
from moe_lab.gpu.bench.nvml import Monitor
from moe_lab.gpu.bench.roofs import flops_of
from moe_lab.gpu.experts import load
from moe_lab.gpu.routing import parse_spec
from moe_lab.gpu.weights import PRODUCTS
from moe_lab.spec import bench_options, formats, plugins
from moe_lab.spec.bench_options import listed, numbers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    bench = bench_options.command(commands, "bench-experts", "time experts backends", run)
    bench_options.add("experts", bench)
    bench.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    bench.add_argument("--state", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # only the supervisor gives it


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Supervise the benchmark or, with ``--state``, be the process that measures; return a summary for stdout.

    Raises:
        UserError: no GPU, an unknown backend, routing or size, or a missing output folder.
    """
    if options.state:
        return work(options)
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"The folder of --out '{options.out}' does not exist; make it first.")
    settings = _settings(options)  # a mistake is reported here, before a process is started
    problems = [case.problem for case in _cases(settings)]
    one_takes(settings["backends"], problems, options.device)
    small_on_cpu(problems, options.device)
    lines = supervise.supervise(bench_options.argv("experts", options), options.out, options.patience)
    failed = sum(line.get("error") is not None for line in lines)
    return {"bench": "experts", "rows": len(lines), "failed": failed, "out": options.out.name}


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every case that is not in the file yet; see ``run``."""
    from tqdm import tqdm

    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; the experts benchmark needs one.")
    settings, state = _settings(options), supervise.State.read(options.state)
    cases, done = _cases(settings), supervise.resume(options.out)
    nvidia = device.type == "cuda" and torch.version.hip is None
    monitor = Monitor(f"GPU-{torch.cuda.get_device_properties(device).uuid}") if nvidia else None
    weights: Weights | None = None
    with options.out.open("a") as file:
        roofs = _begin(file, settings, options, device)
        plans = _plans(settings, settings["kernels"] and not state.no_trace, roofs)
        left = [case for case in cases if case.key not in done]
        for case in (
            bar := tqdm(
                left, total=len(cases), initial=len(cases) - len(left), unit="case", mininterval=1.0, disable=None
            )
        ):
            problem, plan = case.problem, plans[case.problem.format]
            bar.set_postfix_str(f"{problem.model} {problem.format} M={problem.M} {case.routing}")
            note, left_out = partial(supervise.note, options.state, case.key), state.reasons(case.key, plan.backends)
            other = weights is None or weights.case != (problem.model, problem.format)
            if len(left_out) < len(plan.backends) and other:
                note("", "weights")
                weights = None  # before the next are made: two models may not fit
                weights = Weights(problem, device, case.seed)
            measure = partial(experts_rows, device=device, monitor=monitor, left_out=left_out, note=note)
            result.append(file, measure(case, plan, weights, careful=case.key in state.careful))
        result.append(file, [{"complete": True}])
    return {"cases": len(cases)}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    routings = listed(options.routing)
    for spec in routings:
        parse_spec(spec)
    gpu = options.device == "cuda"
    modes = listed(options.modes)
    backends = _backends(options.backends)
    settings = {
        "models": listed(options.model),
        "M": numbers(options.m),
        "routing": routings,
        "backends": backends,
        "parts": listed(options.parts),
        "modes": modes if gpu else ["eager"],
        "formats": listed(options.format),
        "activation": options.activation,
        "biases": options.biases,
        "shared": options.shared,
        "kernels": options.kernels == "all",
        "repetitions": options.repetitions,
        "seed": options.seed,
    }
    _cases(settings)
    return settings


def _backends(text: str) -> list[str]:
    """Return the requested backends; ``all`` means those that are available and that a CUDA graph can capture.

    Raises:
        UserError: there is no backend with that name.
    """
    if text != "all":
        asked = listed(text)
        for name in asked:
            plugins.info("experts", name.partition("@")[0])  # only for its error: what is missing becomes rows
        return asked
    able = [n for n in plugins.names("experts") if plugins.info("experts", n).get("cuda_graph")]
    return [name for name in able if plugins.unavailable("experts", name) is None]


def _cases(settings: dict[str, Any]) -> list[ExpertsCase]:
    acts = {} if settings["activation"] == "model" else {"activation": settings["activation"]}
    named = {key: settings[key] for key in ("shared", "biases")}
    return [
        ExpertsCase(replace(MoEProblem.preset(model, M, format, **named), **acts), routing, settings["seed"])
        for model in settings["models"]
        for format in settings["formats"]
        for routing in settings["routing"]
        for M in settings["M"]
    ]


def _plans(settings: dict[str, Any], kernels: bool, roofs: dict[str, dict[str, Any]]) -> dict[str, Plan]:
    """Return what to measure in each format: of several, a backend is asked for those that it takes."""
    asked = {key: settings[key] for key in ("parts", "modes", "repetitions")}

    def takes(name: str, format: str) -> bool:
        return formats.get(format).among(plugins.info("experts", name.partition("@")[0])["formats"])

    # One that takes none of them is asked all the same: its rows say so.
    strange = {name for name in settings["backends"] if not any(takes(name, f) for f in settings["formats"])}
    return {
        format: Plan(
            [n for n in settings["backends"] if n in strange or takes(n, format)], **asked, kernels=kernels, roofs=of
        )
        for format, of in roofs.items()
    }


def _begin(
    file: Any, settings: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Measure the roofs, write the header of a new file, and return the roofs of each format."""
    multiplied = {format: formats.get(format).multiplied for format in settings["formats"]}
    if unknown := [kind for kind in multiplied.values() if kind not in PRODUCTS]:
        raise UserError(f"The experts benchmark has no roof for {unknown[0]}; choose one of: {', '.join(PRODUCTS)}.")
    kinds = dict.fromkeys(multiplied.values())
    # Also after a restart: rows are compared with roofs that their own process measured.
    against = result.measured(device, *(PRODUCTS[kind] for kind in kinds))
    if file.tell() == 0:
        arguments = ["bench-experts", *bench_options.argv("experts", options)]
        said = settings | {"releases": {name: _release(name) for name in settings["backends"]}}
        result.append(file, [result.header("experts", bench_options.EXPERTS_KEY, arguments, said, device, against)])
    found = against["roofs"]
    names = {kind: flops_of(PRODUCTS[kind]) if n else "matmul_flops_per_s" for n, kind in enumerate(kinds)}
    return {format: _with_product(found, found.get(names[kind])) for format, kind in multiplied.items()}


def _with_product(roofs: dict[str, Any], flops_per_s: int | None) -> dict[str, Any]:
    """Return the roofs with that of a format's product; without one if this GPU does not multiply it."""
    rest = {name: value for name, value in roofs.items() if name != "matmul_flops_per_s"}
    return rest if flops_per_s is None else rest | {"matmul_flops_per_s": flops_per_s}


def _release(name: str) -> dict[str, Any] | None:
    """Return the release of a peer that a backend runs: version, origin, wheel and its sha256; None for our own."""
    try:
        peer = getattr(load(name)[0], "peer", None)
    except Exception:  # the rows of the backend state the reason
        return None
    known = ("wheel", "sha256", "licence", "source")
    return peer and {"version": peer.version, "origin": peer.origin} | {k: peer.facts.get(k) for k in known}
