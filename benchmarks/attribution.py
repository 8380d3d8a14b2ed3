"""How long the breakdown of a large nsys report takes and how much memory: builds the reports itself, prints a table.

    python benchmarks/attribution.py                     0.1, 1 and 3 million kernels, eager; 1 million in CUDA graphs
    python benchmarks/attribution.py --kernels 1000000   one size, eager

The reports are those of ``nsys_report.py``. Every measurement is a process of its own: start of Python, imports,
parsing and breakdown are inside the time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from nsys_report import build


def measured(path: Path) -> None:
    """Break a report down and print the seconds of both steps and the peak memory; runs in a process of its own."""
    begun = time.perf_counter()
    from moe_lab.analysis.breakdown import breakdown
    from moe_lab.runs.parse import parse_report

    launches = parse_report(path)
    parsed = time.perf_counter()
    table = breakdown(launches)
    done = time.perf_counter()
    found = {"parse_s": parsed - begun, "breakdown_s": done - parsed, **table.attrs["coverage"]}
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(json.dumps({key: value for key, value in found.items() if value is not None}))


def measure(path: Path, repeats: int) -> list[dict[str, float]]:
    """Run the measurement in fresh processes; total_s is the wall time of the whole process."""
    results = []
    for _ in range(repeats):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(path)], capture_output=True, text=True, check=True
        )
        results.append({**json.loads(done.stdout), "total_s": time.perf_counter() - begun})
    return results


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, help="one eager report of this size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments.measure)
        return
    say(f"{os.cpu_count()} cores; {arguments.repeats} repeats a row: median (fastest) of the whole process")
    say(
        "| report | kernels | API calls | ranges | file MB | total s | parse s | breakdown s | peak GiB | in ranges % |"
    )
    say("|---|---|---|---|---|---|---|---|---|---|")
    every = [(10**5, False), (10**6, False), (3 * 10**6, False), (10**6, True)]
    for kernels, graph in [(arguments.kernels, False)] if arguments.kernels else every:
        say(line(kernels, graph, arguments.repeats))


def line(kernels: int, graph: bool, repeats: int) -> str:
    """Build and measure one report and return its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.sqlite")
        rows = build(path, kernels, graph)
        found = measure(path, repeats)
        size = path.stat().st_size / 1e6
    middle = {key: float(np.median([f[key] for f in found])) for key in found[0]}
    fastest = min(f["total_s"] for f in found)
    counts = " | ".join(f"{rows[k] / 1e6:.2f} M" for k in ("kernels", "api", "ranges"))
    return (
        f"| {'graph' if graph else 'eager'} | {counts} | {size:.0f} | {middle['total_s']:.2f} ({fastest:.2f}) "
        f"| {middle['parse_s']:.2f} | {middle['breakdown_s']:.2f} | {middle['peak_bytes'] / 2**30:.2f} "
        f"| {middle['in_range_pct']:.1f} |"
    )


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
