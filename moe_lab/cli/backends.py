"""What the command line does about experts backends: list them, list and fetch peers, benchmark."""

import argparse
import json
from typing import Any

from moe_lab.cli.commands import aligned, bench
from moe_lab.spec import plugins


def bench_experts(arguments: argparse.Namespace) -> int:
    """Measure experts backends and print the run's folder; 1 if the measuring process did not come to its end."""
    from moe_lab.spec.bench_options import experts_argv

    return bench("experts", experts_argv(arguments), arguments)


def backends(arguments: argparse.Namespace) -> None:
    """Print every experts backend: what it is, what it takes, and whether it can run here."""
    from moe_lab.runs.capture._facts import gpu_name
    from moe_lab.spec.configs import measured

    gpu = gpu_name()
    rows = [_backend(name) for name in plugins.names("experts")]
    for row in rows:
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


def _backend(name: str) -> dict[str, Any]:
    """Return what a backend states, and why it cannot run here; imports nothing of it."""
    from moe_lab.spec import peers

    info, reason = plugins.info("experts", name), plugins.unavailable("experts", name)
    stated = {key: info.get(key, []) for key in ("about", "source", "formats", "activations", "hardware")}
    peer = peers.find(info["peer"]) if "peer" in info else None
    release = f": {peer.project} {peer.version}, {peer.origin}" if peer else ""
    stated["tried"] = info.get("tried", [])
    known = {"cuda_graph": info.get("cuda_graph", False), "available": reason is None, "reason": reason}
    return {"name": name, **stated, **known, "release": release}


def peers_command(arguments: argparse.Namespace) -> None:
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
            "sha256": str(peer.facts.get("sha256", ""))[:12] or None,
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
