"""``moe-lab capture``: profile a command; each profiler is a plugin, which states its own options."""

import argparse
from functools import partial
from types import ModuleType

from moe_lab.cli._print import add_destination, destination, print_run
from moe_lab.spec import plugins

INFO = {"about": "profile a command and keep the result as a redacted run"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand a profiler."""
    from moe_lab.runs import capture

    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for name in plugins.names("capture"):
        profiler = plugins.load("capture", name)
        called = capture.called(profiler)
        program = "python ..." if profiler.INFO.get("of_program") else "COMMAND ..."
        usage = f"moe-lab capture {called} --name NAME [options] -- {program}"
        tool = tools.add_parser(called, help=profiler.INFO["about"], usage=usage)
        add_destination(tool)
        capture.add_options(tool, profiler.Options)
        tool.add_argument("workload", nargs=argparse.REMAINDER, metavar=f"-- {program}", help="the command to profile")
        tool.set_defaults(run=partial(run, profiler))


def run(profiler: ModuleType, arguments: argparse.Namespace) -> None:
    """Profile a command and print the run's folder."""
    from moe_lab.runs import capture

    workload = arguments.workload[1:] if arguments.workload[:1] == ["--"] else arguments.workload
    options = capture.given_options(profiler.Options, arguments)
    print_run(capture.capture(profiler, workload, arguments.name, options=options, **destination(arguments)))
