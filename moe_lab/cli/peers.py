# SPDX-License-Identifier: Apache-2.0
"""``moe-lab peers``: releases of other projects, whose kernels are read from wheels."""

import argparse
import json

from moe_lab.cli._print import aligned

INFO = {
    "about": "kernels of other projects, read from released wheels",
    "shows": {
        "moe-lab peers [add vllm==0.15.0]": (
            "which other projects' kernels are here? `add` reads them from a released wheel, without installing it"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--format", choices=("table", "json"), default="table")
    actions = parser.add_subparsers(dest="action", metavar="[add REQUIREMENT]")
    add = actions.add_parser("add", help="download a wheel and unpack the files that run its kernels")
    add.add_argument("requirement", metavar="REQUIREMENT", help="such as vllm==0.15.0, or the path of a wheel")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """List the releases of other projects that are here, or unpack one more."""
    import pandas as pd

    from moe_lab.spec import peers

    if arguments.action == "add":
        from moe_lab.spec.peers.fetch import add

        for peer in add(arguments.requirement):
            print(f"{peer.project} {peer.version}: {len(peer.facts['files'])} files, licence {peer.facts['licence']}")
        return
    found = [p for p in map(peers.installed, peers.PROJECTS) if p] + peers.cached()
    rows = [
        {
            "peer": peer.project,
            "version": peer.version,
            "from": peer.facts.get("wheel", "installed package"),
            "sha256": str(peer.facts.get("sha256", ""))[:12] or None,  # enough to compare by eye; JSON has all of it
            "licence": peer.facts.get("licence"),
            "files": str(len(peer.facts["files"])) if peer.facts else None,
        }
        for peer in found
    ]
    if arguments.format == "json":
        print(
            json.dumps([{**row, "sha256": p.facts.get("sha256")} for row, p in zip(rows, found, strict=True)], indent=1)
        )
    elif rows:
        print(aligned(pd.DataFrame(rows)))
    missing = [key for key in peers.PROJECTS if key not in {p.project for p in found}]
    for key in missing if arguments.format == "table" else ():
        print(f"{key} is not here: moe-lab peers add {peers.PROJECTS[key].example}  ({peers.PROJECTS[key].about})")
