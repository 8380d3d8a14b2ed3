# SPDX-License-Identifier: Apache-2.0
"""``moe-lab runs``: list the runs in profiles/, or search them for secrets."""

import argparse
import json
import sys
from pathlib import Path

from moe_lab.cli._print import add_format, aligned, print_csv, records
from moe_lab.spec.errors import UserError

INFO = {
    "about": "list the runs in profiles/, or search them for secrets",
    "shows": {
        "moe-lab runs [--format table|csv|json]": "which captures and benchmarks are there?",
        "moe-lab runs check [RUN ...]": (
            "is there anything left in a run that should not be published? Searches every byte (inside "
            "gz, in free pages of SQLite) for secrets, hosts, users, addresses and paths, says in which "
            "file, never what; 1 if anything is found"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    add_format(parser)
    parser.set_defaults(run=list_runs)
    actions = parser.add_subparsers(dest="action", metavar="[check RUN ...]")
    check = actions.add_parser("check", help="search every byte of runs for secrets, hosts, users, addresses, paths")
    check.add_argument("runs", nargs="*", metavar="RUN", help="names or folders; default: every run")
    # SUPPRESS, so that a --profiles before `check` is not overwritten by a default.
    check.add_argument("--profiles", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="profiles folder")
    check.set_defaults(run=check_runs)


def list_runs(arguments: argparse.Namespace) -> None:
    """Print the runs in profiles/."""
    import pandas as pd

    from moe_lab import runs

    found, broken = runs.survey(arguments.profiles)
    rows = [
        {
            "run": run.manifest["name"],
            "gpu": (run.manifest.get("gpu") or {}).get("name"),
            "date": str(run.manifest.get("date") or "")[:10] or None,
            "what": run.what,
        }
        for run in found
    ]
    for sentence in broken[0 if rows else 1 :]:  # without a run that can be read, the first one is the error
        print(f"moe-lab: {sentence}", file=sys.stderr)
    if broken and not rows:
        raise UserError(broken[0])
    if not rows:
        raise UserError(
            "There are no runs; make one with `moe-lab capture nsys --name X -- COMMAND` or `moe-lab import`."
        )
    table = pd.DataFrame(rows)
    if arguments.format == "csv":
        print_csv(table)
    elif arguments.format == "json":
        print(json.dumps(records(table), indent=1))
    else:
        print(aligned(table))


def check_runs(arguments: argparse.Namespace) -> int:
    """Search runs again and print what kind of thing was found, never the thing itself; returns 1 if there is any."""
    from moe_lab import runs
    from moe_lab.runs import redact
    from moe_lab.runs.redact.search import search

    root = arguments.profiles or runs.profiles_root()
    places = [_place(name, root) for name in arguments.runs] or runs.folders(root)
    if not places:
        raise UserError("There are no runs to search; give the folder of one, or --profiles.")
    found = [(place, finding) for place in places for finding in search(place)]
    for place, finding in found:
        # A folder elsewhere may have a telling path: only its last part is printed.
        name = place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name
        print(f"{redact.text(name)}: {finding.file}: {redact.said({finding.kind: finding.count})}")
    if not found:
        print(f"{len(places)} {'run' if len(places) == 1 else 'runs'}, nothing found")
    return 1 if found else 0


def _place(name: str, root: Path) -> Path:
    """Return the folder or file of a run by name or path, even if its ``run.json`` cannot be read."""
    from moe_lab import runs

    for path in (Path(name), root / name):
        if path.exists():
            return path.parent if path.name == runs.MANIFEST else path
    return runs.load(name, root=root).path
