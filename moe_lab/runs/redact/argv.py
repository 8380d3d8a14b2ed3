# SPDX-License-Identifier: Apache-2.0
"""Command lines: arguments that the option before them makes secret, and assignments in front of a program."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from moe_lab.runs.redact.secrets import HIDDEN, is_name

_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)")
_ASSIGNED = re.compile(r"(?:(?<=\s)|\A)([A-Za-z_]\w*)=(?:'[^']*'|\"[^\"]*\"|\S*)\s*")
_WHOLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SHELLS = {"-c", "-lc", "-ic", "--command", "-e"}  # options whose argument is a whole command
_INSIDE = re.compile(r"(?<=\s)(--?([A-Za-z][\w.-]*))(\s+)('[^']*'|\"[^\"]*\"|[^\s'\"]+)")
_OTHER_P = re.compile(r"papermill|moe[-_]lab|mkdir|ssh|docker|cp|nc|nmap")  # programs whose -p is no password
_NUMBER = re.compile(r"[\d.:]+")


def parts(argv: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Yield for every argument (what may be shown, None = nothing of it; the secret that was removed, None = none)."""
    program, before, last = "", "", ""
    for argument in argv:
        option, own = _OPTION.fullmatch(before), _OPTION.match(argument)
        whole = _WHOLE.fullmatch(argument) if before not in _SHELLS else None
        valued = own and argument[own.end() : own.end() + 1] == "="
        unbuffered = before == "-u" and "python" in last  # elsewhere -u takes a user
        if (
            option
            and not unbuffered
            and _is_secret(before, option.group(1), argument, program)
            and not _OPTION.fullmatch(argument)
        ):
            yield HIDDEN, argument
            before = ""
            continue
        if own and valued and is_name(own.group(1)):
            yield f"{own.group(0)}={HIDDEN}", argument[own.end() + 1 :] or None
        elif whole and is_name(whole.group(1)):
            yield None, argument
        else:
            yield argument, None
        if _OTHER_P.fullmatch(PurePath(argument).name):
            program = argument
        before, last = argument, before


def _is_secret(option: str, name: str, value: str, program: str) -> bool:
    """Return whether the argument after an option is a secret."""
    if option in ("-u", "--user", "--proxy-user", "-H", "--header", "--cookie"):
        return True
    if option == "-p":
        return not program and not _NUMBER.fullmatch(value)
    return option.startswith("--") and is_name(name) and value.lower() not in ("none", "auto", "true", "false")


def inside(argument: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return (a command within one argument, without the values of its secret options; those values)."""
    found: list[tuple[str, str]] = []

    def put(match: re.Match[str]) -> str:
        option, name, space, value = match.groups()
        if not _is_secret(option, name, value.strip("'\""), argument if _OTHER_P.search(argument) else ""):
            return match.group(0)
        found.append(("secret", value))
        return f"{option}{space}{HIDDEN}"

    return _INSIDE.sub(put, argument), tuple(found)


def without_assignments(argument: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return (an argument without the ``NAME=value`` whose names look secret; what was removed)."""
    found: list[tuple[str, str]] = []

    def drop(match: re.Match[str]) -> str:
        if not is_name(match.group(1)):
            return match.group(0)
        found.append(("secret", match.group(0).strip()))
        return ""

    return _ASSIGNED.sub(drop, argument), tuple(found)
