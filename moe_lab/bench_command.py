"""``python -m moe_lab.workload bench-align``: run the align benchmark on a GPU and write its rows as JSON."""

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from moe_lab import plugins
from moe_lab.errors import UserError
from moe_lab.routing import SPECS, parse_spec

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.workload``."""
    bench = commands.add_parser(
        "bench-align", help="time align algorithms", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    bench.set_defaults(run=run)
    bench.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), metavar="M", help="tokens")
    bench.add_argument("--experts", type=int, nargs="+", default=[128, 256], metavar="E", help="experts")
    bench.add_argument("--topk", type=int, nargs="+", default=[8], help="experts per token")
    bench.add_argument("--block-m", type=int, nargs="+", default=[64], help="rows of a tile")
    bench.add_argument("--routing", nargs="+", default=["uniform"], help=SPECS)
    bench.add_argument(
        "--algorithms",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help=f"all, or of: {', '.join(plugins.names('align'))}",
    )
    bench.add_argument("--modes", nargs="+", default=["graph", "eager", "eager+allocation"], help="what is timed")
    bench.add_argument("--repetitions", type=int, default=50, help="timed calls of each variant")
    bench.add_argument("--seed", type=int, default=0, help="of the routing")
    bench.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    bench.add_argument("--table", action="store_true", help="also print the medians of the first mode on stderr")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; returns a summary for stdout.

    The file is written anew after every case, under a temporary name first, so an interrupted run keeps what it has.

    Raises:
        UserError: no GPU, an unknown algorithm, routing or mode, or an output folder that does not exist.
    """
    from tqdm import tqdm

    from moe_lab.bench import align_cases, align_rows

    settings = _settings(options)
    cases = list(align_cases(settings))
    result = _header(settings)
    with tqdm(cases, unit="case", file=sys.stderr, mininterval=1.0) as bar:
        for case in bar:
            bar.set_postfix_str(f"M={case.tokens} E={case.E} topk={case.topk}")
            result["rows"] += align_rows(
                case, settings["algorithms"], repetitions=settings["repetitions"], modes=settings["modes"]
            )
            _write(result, options.out)
    if options.table:
        print(table(result["rows"], settings["modes"][0]), file=sys.stderr)  # noqa: T201
    failed = sum(row["error"] is not None for row in result["rows"])
    return {
        "bench": "align",
        "cases": len(cases),
        "rows": len(result["rows"]),
        "failed": failed,
        "out": options.out.name,
    }


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from moe_lab.bench import MODES

    if not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; the align benchmark needs one.")
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"The folder of --out '{options.out}' does not exist; make it first.")
    names = plugins.names("align") if options.algorithms == ["all"] else options.algorithms
    for name in names:
        plugins.load("align", name)
    for spec in options.routing:
        parse_spec(spec)
    if set(options.modes) - set(MODES):
        raise UserError(f"--modes takes {', '.join(MODES)}; not {', '.join(options.modes)}.")
    pairs = [(E, topk) for E in options.experts for topk in options.topk if topk <= E]
    if not pairs or options.repetitions < 1 or min(options.tokens) < 0:
        raise UserError("Use topk <= experts, at least one repetition, and no negative tokens.")
    return {
        "tokens": options.tokens,
        "experts_topk": pairs,
        "block_m": options.block_m,
        "routing": options.routing,
        "algorithms": names,
        "modes": options.modes,
        "repetitions": options.repetitions,
        "seed": options.seed,
    }


def _header(settings: dict[str, Any]) -> dict[str, Any]:
    from moe_lab.record import gpu, versions

    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "schema": 1,
        "bench": "align",
        "date": date,
        "gpu": gpu("cuda"),
        "versions": versions(),
        "settings": settings,
        "rows": [],
    }


def _write(result: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(result, indent=None, separators=(",", ":")))
    temporary.replace(path)


def table(rows: list[dict[str, Any]], mode: str) -> str:
    """Return the medians in microseconds as text: one line per case, one column per algorithm; ``-``: not taken.

    Below them is one line per failure.
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
