# SPDX-License-Identifier: Apache-2.0
"""``moe-lab backends``: every experts backend and way between ranks, what it takes, and if it can run here."""

import argparse
import json
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError

INFO = {
    "about": "every experts backend: what it takes, and if it can run here",
    "shows": {
        "moe-lab backends [--format table|json]": (
            "which experts backends are there, what do they take, and why can one not run here?"
        ),
        "moe-lab backends --matrix [--backend NAME] [--only FORMAT] [--format table|json]": (
            "which backend takes which format, activation and input, which stored run tried it at which M with which "
            "error, and why does it not work on this machine?"
        ),
        "moe-lab backends --engines [--format table|json]": (
            "which kernel of vLLM, SGLang and others has an adapter here, and what would the others need?"
        ),
        "moe-lab backends --ways [--format table|json]": (
            "which ways between ranks are there, what do they send, and why can one not run here?"
        ),
    },
}

SENDS = {
    "needed": "a token once for each rank with experts of it",
    "pairs": "a token once for each of its experts",
    "all": "every token to all ranks",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--format", choices=("table", "json"), default="table")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--matrix", action="store_true", help="one line for each backend and number format")
    one.add_argument("--engines", action="store_true", help="one line for each kernel that engines list")
    one.add_argument("--ways", action="store_true", help="the ways between ranks (--comm) instead")
    parser.add_argument("--backend", help="with --matrix: of this backend alone")
    parser.add_argument("--only", metavar="FORMAT", help="with --matrix: of this number format alone")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print every experts backend: what it is, what it takes, and whether it can run here."""
    from moe_lab.runs.capture._facts import gpu_name
    from moe_lab.spec.configs import measured

    if (arguments.backend or arguments.only) and not arguments.matrix:
        raise UserError("--backend and --only choose cells of the matrix; add --matrix.")
    if arguments.matrix or arguments.engines:
        print(_matrix(arguments) if arguments.matrix else _engines(arguments))
        return
    if arguments.ways:
        ways = [_way(name) for name in plugins.names("comm")]
        print(json.dumps(ways, indent=1) if arguments.format == "json" else "\n\n".join(map(_said, ways)))
        return
    gpu = gpu_name()
    rows = [_backend(name) for name in plugins.names("experts")]
    for row in rows:
        # Only auto chooses, by times measured on a GPU of this name.
        row |= {"gpu": gpu, "choice": measured.choice(gpu) if row["name"] == "auto" else None}
    if arguments.format == "json":
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['name']}: {row['about']}")
        lists = {key: ", ".join(row[key]) or "none" for key in ("formats", "activations")}
        print(f"  formats {lists['formats']}; activations {lists['activations']}")
        print(f"  hardware: {row['hardware']}")
        print(f"  source: {row['source']}")
        if row["tried"]:
            print(f"  tried with: {', '.join(row['tried'])}")
        if row["choice"]:
            print(f"  on {row['gpu'] or 'this machine'}: {row['choice']}")
        print(f"  {'available' + row['release'] if row['available'] else row['reason']}\n")


def _matrix(arguments: argparse.Namespace) -> str:
    from moe_lab.cli._print import fitted
    from moe_lab.pages import load

    cells = load.backends()
    for column, wanted in (("backend", arguments.backend), ("format", arguments.only)):
        known = sorted(set(cells[column]))
        if wanted and wanted not in known:
            raise UserError(f"No {column} is called '{wanted}'; choose one of: {', '.join(known)}.")
        cells = cells[cells[column] == wanted] if wanted else cells
    if arguments.format == "json":
        return str(cells.to_json(orient="records", indent=1))
    return fitted(cells, spare=["why_failed", "adds_biases", "hardware", "activations", "releases", "rows_failed"])


def _engines(arguments: argparse.Namespace) -> str:
    from moe_lab.analysis import support
    from moe_lab.cli._print import fitted
    from moe_lab.pages import load

    table = support.elsewhere(load.backends(), load.align_benches())
    if arguments.format == "json":
        return str(table.to_json(orient="records", indent=1))
    first = ["engine", "kernel", "backend", "tried_on", "why_not", "needed"]
    spare = ["on_input", "inputs", "activations", "hardware", "formats", "releases", "why_not"]
    return fitted(table[[*first, *table.columns.difference(first, sort=False)]], spare=spare)


def _way(name: str) -> dict[str, Any]:
    """Return what a way between ranks states and why it cannot run here, without importing it."""
    info, reason = plugins.info("comm", name), plugins.unavailable("comm", name)
    stated = {key: info.get(key) for key in ("about", "layout", "ranks", "formats", "devices", "source")}
    stated["sends"] = info.get("sends", "needed") if info["ranks"] == "any" else None
    return {"name": name, **stated, "available": reason is None, "reason": reason}


def _said(way: dict[str, Any]) -> str:
    formats, ranks = ", ".join(way["formats"] or ["any"]), "one rank" if way["ranks"] == "one" else "several ranks"
    laid = "rows by expert" if way["layout"] == "batched" else "rows of tokens"
    sent = f"; {SENDS[way['sends']]}" if way["sends"] else ""
    return (
        f"{way['name']}: {way['about']}\n  {ranks}{sent}; {laid}; formats {formats}\n  source: {way['source']}\n"
        f"  {'available' if way['available'] else way['reason']}"
    )


def _backend(name: str) -> dict[str, Any]:
    """Return what a backend states and why it cannot run here, without importing it."""
    from moe_lab.spec import peers

    info, reason = plugins.info("experts", name), plugins.unavailable("experts", name)
    stated = {key: info.get(key, []) for key in ("about", "source", "formats", "activations", "hardware")}
    peer = peers.find(info["peer"]) if "peer" in info else None
    release = f": {peer.project} {peer.version}, {peer.origin}" if peer else ""
    stated["tried"] = info.get("tried", [])
    known = {"cuda_graph": info.get("cuda_graph", False), "available": reason is None, "reason": reason}
    return {"name": name, **stated, **known, "release": release}
