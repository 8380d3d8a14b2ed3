# SPDX-License-Identifier: Apache-2.0
"""The reference of commands, for docs/commands.md: what ``--help`` says, read from the parsers."""

import argparse
from collections.abc import Iterator

from moe_lab.pages.readme import table
from moe_lab.spec import plugins


def markdown() -> str:
    """Return a section in Markdown for each command, with its arguments and options, and one for each command in it."""
    from moe_lab.cli import _parser

    parts: list[str] = []
    for name in plugins.names("cli"):
        called = name.strip("_").replace("_", "-")
        (commands,) = _inner(_parser([called]))
        about = str(plugins.info("cli", name)["about"])
        parts += _section(f"moe-lab {called}", about, commands.choices[called], "##")
    return "\n".join(parts)


def _section(called: str, about: str, parser: argparse.ArgumentParser, head: str) -> Iterator[str]:
    if fill := getattr(parser, "fill", None):  # a profiler's, which has no options before they are needed
        fill()
    yield f"{head} {called}\n\n{about[:1].upper()}{about[1:]}.\n"
    own = [a for a in parser._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)]
    if own:
        yield table(["argument or option", "what", "default"], map(_row, own), left=[0, 1, 2]) + "\n"
    for commands in _inner(parser):
        said = {action.dest: action.help or "" for action in commands._choices_actions}
        for name, below in commands.choices.items():
            yield from _section(f"{called} {name}", said[name], below, f"{head}#")


def _inner(parser: argparse.ArgumentParser) -> list["argparse._SubParsersAction[argparse.ArgumentParser]"]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _row(action: argparse.Action) -> list[str]:
    takes = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    takes = " ".join(takes) if isinstance(takes, tuple) else str(takes)
    names = ", ".join(action.option_strings)
    called = f"{names} {takes}" if names and action.nargs != 0 else names or takes
    what = action.help or ""
    default = action.default if action.option_strings and action.nargs != 0 and "(default" not in what else None
    shown = "" if default in (None, "", [], (), argparse.SUPPRESS) else f"`{default}`"
    return [cell.replace("|", r"\|") for cell in (f"`{called}`", what, shown)]
