"""The command line: ``<name>.py`` is a command, with ``INFO`` and ``add(parser)``, which sets ``run(arguments)``.

Only the command that was asked for is imported; the help of all of them is read from their files.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moe_lab import __version__
from moe_lab.spec import plugins
from moe_lab.spec.guard import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if a notebook or benchmark failed, 2 for an explained mistake."""

    def run() -> int:
        words = plugins.take(sys.argv[1:] if argv is None else argv)
        arguments = _parser(words).parse_args(words)
        from moe_lab.spec.guard import places, scratch  # not for --help, which is to be there at once

        profiles = getattr(arguments, "profiles", None) or places.profiles_root()
        for removed in [*scratch.sweep(Path(tempfile.gettempdir())), *places.sweep(profiles)]:
            print(f"moe-lab: {removed}", file=sys.stderr)
        return int(arguments.run(arguments) or 0)

    return terminal.ended(run)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; of commands that the words do not begin with it knows the name and the help only."""
    parser = argparse.ArgumentParser(
        prog="moe-lab", description="Profile fused Mixture-of-Experts layers and say where their time goes."
    )
    parser.add_argument("--version", action="version", version=f"moe-lab {__version__}")
    parser.add_argument("--plugin", metavar="FILE.py", help="first of all: a plugin from outside (repeat for several)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in plugins.names("cli"):
        called = name.strip("_").replace("_", "-")
        command = commands.add_parser(called, help=plugins.info("cli", name)["about"], allow_abbrev=False)
        if words and words[0] == called:
            plugins.load("cli", name).add(command)
    return parser
