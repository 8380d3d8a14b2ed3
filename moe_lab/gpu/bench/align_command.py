# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu bench-align``: run the align benchmark on a GPU and write its rows."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from moe_lab.gpu.bench import result
from moe_lab.gpu.routing import parse_spec
from moe_lab.spec import bench_options, plugins
from moe_lab.spec.bench_options import listed, numbers
from moe_lab.spec.errors import UserError


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    bench = bench_options.command(commands, "bench-align", "time align algorithms", run)
    bench_options.add("align", bench)
    bench.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; return a summary for stdout.

    Raises:
        UserError: no GPU, an unknown algorithm or routing, impossible sizes, or a missing output folder.
    """
    from tqdm import tqdm

    from moe_lab.gpu.bench.align import KEY, align_cases, align_rows

    settings = _settings(options)
    device = torch.device("cuda", torch.cuda.current_device())
    cases = list(align_cases(settings))
    rows: list[dict[str, Any]] = []
    with options.out.open("w") as file, tqdm(cases, unit="case", file=sys.stderr, mininterval=1.0, disable=None) as bar:
        arguments = ["bench-align", *bench_options.argv("align", options)]
        against = result.measured(device, torch.bfloat16)  # align multiplies nothing: of its roofs only bytes matter
        result.append(file, [result.header("align", KEY, arguments, settings, device, against)])
        for case in bar:
            bar.set_postfix_str(f"M={case.tokens} E={case.E} topk={case.topk}")
            measured = align_rows(
                case,
                settings["algorithms"],
                repetitions=settings["repetitions"],
                modes=settings["modes"],
                kernels=settings["kernels"] == ["all"] or case.tokens in settings["kernels"],
                most_topk=max(k for k in settings["topk"] if k <= case.E),
            )
            result.append(file, measured)
            rows += measured
        result.append(file, [{"complete": True}])
    if options.table:
        print(table(rows, settings["modes"][0]), file=sys.stderr)  # noqa: T201
    failed = sum(row["error"] is not None for row in rows)
    return {"bench": "align", "cases": len(cases), "rows": len(rows), "failed": failed, "out": options.out.name}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; the align benchmark needs one.")
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"The folder of --out '{options.out}' does not exist; make it first.")
    names = listed(options.algorithms)
    if names == ["all"]:
        names = [name for name in plugins.names("align") if plugins.unavailable("align", name) is None]
    for name in names:
        plugins.load("align", name)  # fails here if it is unknown or lacks a module, not after the first cases
    settings = {name: numbers(getattr(options, name)) for name in ("tokens", "experts", "topk", "block_m")}
    if min(settings["topk"]) > max(settings["experts"]):
        raise UserError("Use topk <= experts.")
    routings = listed(options.routing)
    for spec in routings:
        parse_spec(spec)
    traced = options.kernels  # all, none, or the tokens at which to profile
    named = {
        "routing": routings,
        "algorithms": names,
        "modes": listed(options.modes),
        "kernels": ["all"] if traced == "all" else [] if traced == "none" else numbers(traced),
    }
    return {**settings, **named, "repetitions": options.repetitions, "seed": options.seed}


def table(rows: list[dict[str, Any]], mode: str) -> str:
    """Return the medians in microseconds as text: one line per case, one column per algorithm, ``-`` if left out.

    One line per failure follows.
    """
    rows = [r for r in rows if r["mode"] == mode]
    names = list(dict.fromkeys(r["algorithm"] for r in rows))
    cases: dict[tuple[Any, ...], dict[str, str]] = {}
    for r in rows:
        key = r["tokens"], r["E"], r["topk"], r["block_m"], r["routing"]
        cases.setdefault(key, {})[r["algorithm"]] = "error" if r["median_us"] is None else f"{r['median_us']:.2f}"
    head = f"{'M':>6} {'E':>4} {'k':>2} {'bm':>3} {'routing':>9} " + " ".join(f"{n[:15]:>15}" for n in names)
    lines = [f"{mode}, median us", head]
    for key, medians in cases.items():
        cells = " ".join(f"{medians.get(n, '-'):>15}" for n in names)
        lines.append("{:>6} {:>4} {:>2} {:>3} {:>9} ".format(*key) + cells)
    lines += [f"{r['algorithm']}, M={r['tokens']} E={r['E']}: {r['error']}" for r in rows if r["error"] is not None]
    return "\n".join(lines)
