# SPDX-License-Identifier: Apache-2.0
"""The command line: each ``<name>.py`` is a command with ``INFO`` and ``add(parser)``, which sets ``run(arguments)``.

Only the command that was asked for is imported; the help of the others is read from their files.
"""

import argparse
import difflib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from moe_lab import __version__
from moe_lab.cli import _complete
from moe_lab.spec import plugins
from moe_lab.spec.guard import terminal
from moe_lab.spec.guard.options import Strict


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if a notebook or benchmark failed, 2 for an explained mistake."""

    def run() -> int:
        typed = _complete.typed()
        words = plugins.take(typed or (sys.argv[1:] if argv is None else argv))
        parser = _parser(words)
        if typed is not None:
            _complete.answer(parser)
        if not words:
            parser.print_help()
            return 0
        arguments = parser.parse_args(words)
        from moe_lab.spec.guard import places, scratch  # not needed for --help, which should appear at once

        profiles = getattr(arguments, "profiles", None) or places.profiles_root()
        # What commands that were killed have left behind.
        for removed in [*scratch.sweep(Path(tempfile.gettempdir())), *places.sweep(profiles)]:
            print(f"moe-lab: {removed}", file=sys.stderr)
        return int(arguments.run(arguments) or 0)

    return terminal.ended(run)  # turns errors and interruptions into exit codes


class _Parser(Strict):
    """Adds to an unknown word the known one that is most like it."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and leave with exit code 2."""
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)|unrecognized arguments: (-\S+)", message)
        if wrong:
            word = (wrong[3] or wrong[1]).partition("=")[0]
            known = [f for f in _flags(self) if f != word] if wrong[3] else re.findall(r"[^\s,']+", wrong[2])
            near = difflib.get_close_matches(word, known, 1)
            message = message.partition(" (choose from")[0] if near else message
            message += f"; did you mean '{near[0]}'?" if near else ""
        super().error(message)


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    # An option that a command does not know is reported by the parser around it.
    return [flag for action in _complete.arguments(parser) for flag in action.option_strings]


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; it has the options of the command in ``words``, and only name and help of the others."""
    parser = _Parser(
        prog="moe-lab", description="Profile fused Mixture-of-Experts layers and say where their time goes."
    )
    parser.add_argument("--version", action="version", version=f"moe-lab {__version__}")
    parser.add_argument("--plugin", metavar="FILE.py", help="first of all: a plugin from outside (repeat for several)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in plugins.names("cli"):
        called = name.strip("_").replace("_", "-")  # import_.py: `import` is a keyword of Python
        # Abbreviations of options would break when a new option begins alike.
        command = commands.add_parser(called, help=plugins.info("cli", name)["about"], allow_abbrev=False)
        if words and words[0] == called:
            plugins.load("cli", name).add(command)
    return parser
