# SPDX-License-Identifier: Apache-2.0
"""What the shell offers after Tab, by argcomplete (extra ``completion``): commands, options, runs, notebooks, lists."""

import argparse
import os
from collections.abc import Iterator

from moe_lab.spec import plugins
from moe_lab.spec.guard import shipped

RUNS = {"RUN", "RUN_OR_REPORT", "FILE_OR_RUN", "A", "B"}  # what arguments that take a run are called in the help


# Plugins that options with a list of them take, by the name of the option.
LISTS = {"backends": "experts", "backend": "experts", "comm": "comm", "algorithms": "align", "format": "formats"}


def typed() -> list[str] | None:
    """Return the words of the line that is being typed, without the program's name; None if nobody pressed Tab."""
    return os.environ["COMP_LINE"].split()[1:] if "_ARGCOMPLETE" in os.environ else None


def answer(parser: argparse.ArgumentParser) -> None:
    """Print what may follow and leave, without argcomplete at once: nothing runs because somebody pressed Tab."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        raise SystemExit(1) from None
    files = argcomplete.FilesCompleter()
    for action in arguments(parser):
        names = _runs if action.metavar in RUNS else _notebooks if action.metavar == "NOTEBOOK" else None
        if action.metavar == "LIST":
            action.completer = lambda prefix, name=action.dest, **_: _listed(prefix, name)  # type: ignore[attr-defined]
        if names:
            action.completer = lambda prefix, names=names, **_: [*names(), *files(prefix)]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Return the arguments and options of a parser and of the commands in it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from arguments(below)


def _listed(prefix: str, option: str) -> list[str]:
    """Return what a list may be with one more name; ``prefix`` has those before it."""
    from moe_lab.cli.kernels import BY

    names = BY if option == "by" else plugins.names(LISTS[option]) if option in LISTS else ()
    before = prefix[: prefix.rfind(",") + 1]
    return [before + name for name in names if name not in before.split(",")]


def _runs() -> list[str]:
    # Not by moe_lab.runs, which would import pandas at each Tab.
    found = [path.parent for root in shipped.roots() for path in root.glob(shipped.RUNS)]
    return sorted({f"{folder.parent.name}/{folder.name}" for folder in found})


def _notebooks() -> list[str]:
    from moe_lab.report import notebooks

    return [path.stem for path in notebooks.find(None)]
