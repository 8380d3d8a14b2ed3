# SPDX-License-Identifier: Apache-2.0
"""``moe-lab capture``: profile a command; each profiler is a plugin that states its own options."""

import argparse
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_lab.cli._print import add_destination, destination, print_run
from moe_lab.spec import plugins

INFO = {
    "about": "profile a command and keep the result as a redacted run",
    "shows": {},  # its profilers have rows of their own
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per profiler."""
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL", parser_class=_Profiler)
    for name in plugins.names("capture"):
        info = plugins.info("capture", name)
        called = info.get("called", name.replace("_", "-"))
        program = "python ..." if info.get("of_program") else "COMMAND ..."
        usage = f"moe-lab capture {called} --name NAME [options] -- {program}"
        tools.add_parser(called, help=info["about"], usage=usage, plugin=name, program=program)


class _Profiler(argparse.ArgumentParser):
    """The parser of a profiler; imports it, and with it pandas, only when its arguments are parsed."""

    def __init__(self, *, plugin: str, program: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.plugin, self.program = plugin, program

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        return super().parse_known_args(args, namespace)

    def fill(self) -> None:
        """Add the options, which only the profiler itself knows."""
        from moe_lab.runs import capture

        profiler = plugins.load("capture", self.plugin)
        add_destination(self)
        capture.add_options(self, profiler.Options)
        words = f"-- {self.program}"
        # All that follows belongs to the command, even what looks like one of our options.
        self.add_argument("workload", nargs=argparse.REMAINDER, metavar=words, help="the command to profile")
        self.set_defaults(run=partial(run, profiler))


def run(profiler: ModuleType, arguments: argparse.Namespace) -> None:
    """Profile a command and print the run's folder."""
    from moe_lab.runs import capture

    # argparse keeps the first -- in the remainder.
    workload = arguments.workload[1:] if arguments.workload[:1] == ["--"] else arguments.workload
    if [Path(part).name for part in workload[:2]] == ["moe-lab", "workload"]:
        # What that command starts: one process less, and profilers that come with the program can come with it.
        workload = [sys.executable, "-m", "moe_lab.gpu", *workload[2:]]
    options = capture.given_options(profiler.Options, arguments)
    print_run(capture.capture(profiler, workload, arguments.name, options=options, **destination(arguments)))
