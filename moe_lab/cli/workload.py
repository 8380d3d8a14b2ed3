# SPDX-License-Identifier: Apache-2.0
"""``moe-lab workload``: run what gets profiled, with or without a profiler around it."""

import argparse
import subprocess
import sys
from importlib.util import find_spec

INFO = {
    "about": "run what gets profiled: a layer, a model of transformers, the experts part, align algorithms",
    "shows": {
        "moe-lab workload layer|hf|experts|align [--help]": (
            "the program that `moe-lab capture nsys --name X -- moe-lab workload ...` profiles; `hf` is any MoE model "
            "of transformers with random weights, its modules marked as SGLang or vLLM mark them, its experts computed "
            "by `--backend` ([a kernel of one's own in it](my_kernel.md))"
        ),
    },
}
NAMES = ("layer", "hf", "experts", "align")


def add(parser: argparse.ArgumentParser) -> None:
    """Add its arguments; those of a workload are read by the process that runs it."""
    parser.add_argument("workload", choices=NAMES, help="layer: ours; hf: of transformers; experts and align: parts")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its own, see moe-lab workload NAME --help")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it in a process with torch; returns its exit code."""
    from moe_lab.spec.errors import UserError
    from moe_lab.spec.guard import children

    if find_spec("torch") is None:
        raise UserError("A workload needs torch here: pip install 'moe-lab[gpu]'.")
    argv = [sys.executable, "-m", "moe_lab.gpu", arguments.workload, *arguments.options]
    return children.wait(subprocess.Popen(argv))
