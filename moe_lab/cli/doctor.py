# SPDX-License-Identifier: Apache-2.0
"""``moe-lab doctor``: what this machine can capture, and what to do about the rest."""

import argparse
import json
from dataclasses import asdict

INFO = {
    "about": "what this machine can capture, and what to do about the rest",
    "shows": {
        "moe-lab doctor": "what can this machine capture, and what does each missing thing cost?",
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what this machine can capture; return 1 if nothing can be captured here."""
    from moe_lab.runs.doctor import can_capture, examine

    checks = examine()
    able = can_capture(checks)
    if arguments.format == "json":
        print(json.dumps([asdict(c) for c in checks], indent=1))
        return 0 if able else 1
    width = max(len(c.name) for c in checks)  # so that the texts are aligned
    for check in checks:
        if check.found:
            print(f"ok       {check.name.ljust(width)}  {check.found}")
        else:
            print(f"missing  {check.name.ljust(width)}  costs: {check.costs}")
            print(f"{' ' * (width + 11)}get it: {check.remedy}")  # below "costs:"
    missing = sum(not check.found for check in checks)
    where = f"this machine can capture with {' and '.join(able)}" if able else "nothing can be captured on this machine"
    print(f"\n{len(checks) - missing} of {len(checks)} are there; {where}.")
    return 0 if able else 1
