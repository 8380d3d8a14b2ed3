# SPDX-License-Identifier: Apache-2.0
"""Types of command-line options: argparse refuses invalid numbers and patterns, and numbers out of bounds."""

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import integer, one_line

COUNT = 10**6  # of repetitions, launches, instances, seconds
TOKENS = 2**31 - 1  # kernels count rows in 32 bits
EXPERTS = 2**16
SIZE = 2**20  # hidden and intermediate


class Strict(argparse.ArgumentParser):
    """Shows the usage of the command that got an unknown option; argparse would show that of the one around it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that says the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type: whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            return integer(text, range(least, most + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}") from None

    return read


count = whole(1, COUNT)
tokens = whole(0, TOKENS)
few = whole(0, 1024)
seed = whole(0, 2**63 - 1)


def shared(text: str) -> int | str:
    """Return how many shared experts, or ``model`` for as many as the model has: the argparse type of --shared."""
    try:
        return text if text == "model" else few(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor 'model'") from None


def amount(text: str) -> float:
    """Return a finite number above zero: the argparse type of sizes in MB."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan  # float takes ٣ and 1_0 as well
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0 and below 1e9")
    return value


def pattern(text: str) -> str:
    """Return a regular expression that compiles: the argparse type of --root and --kernel."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a regular expression ({error})") from None
    return text


def percent(text: str) -> float:
    """Return the percentage of ``5%``, ``5`` or ``0.5 %``: from 0 to below 1000; the argparse type of --threshold."""
    try:
        value = 0.0 if text.strip(" %") in ("0", "0.0") else amount(text.removesuffix("%").strip())
    except argparse.ArgumentTypeError:
        value = math.inf
    if value >= 1000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a percentage; write for example 5%")
    return value


def seconds(text: str) -> float:
    """Return the seconds of ``90s``, ``5m``, ``1.5h`` or a number; UserError if that is not a time above zero."""
    scale = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 1)
    try:
        value = amount(text[:-1] if text[-1:] in ("s", "m", "h") else text) * scale
    except argparse.ArgumentTypeError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UserError(f"'{one_line(text)}' is not a time; write 90s, 5m or 1h.")
    return value
