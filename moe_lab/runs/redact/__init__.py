# SPDX-License-Identifier: Apache-2.0
"""Remove from strings what must not leave the profiled machine: secrets, hosts, users, addresses and paths.

Every format, manifest and benchmark is redacted here. ``counting`` collects what was hidden while it is open.
"""

import getpass
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

from moe_lab.runs.redact import argv as _argv
from moe_lab.runs.redact import names, places, secrets
from moe_lab.runs.redact.secrets import HIDDEN

__all__ = ["HIDDEN", "Hidden", "command", "counting", "names_in", "note", "said", "text", "tree"]

KINDS = {
    "secret": ("secret", "secrets"),
    "host": ("host name", "host names"),
    "user": ("user name", "user names"),
    "address": ("address", "addresses"),
    "device": ("device id", "device ids"),
    "path": ("path", "paths"),
}
LONG = 10_000  # characters; longer texts are rare and would fill the cache
Found = tuple[str, tuple[tuple[str, str], ...]]


class Hidden:
    """What was hidden, each thing once: a set of things for each kind of ``KINDS``."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {kind: set() for kind in KINDS}

    @property
    def counts(self) -> dict[str, int]:
        """How many distinct things of each kind; kinds without any are left out."""
        return {kind: len(found) for kind, found in self.found.items() if found}


def said(counts: dict[str, int]) -> str:
    """Return counts in words: ``3 host names, 2 secrets``, or ``nothing``."""
    known = [f"{n} {KINDS[kind][n != 1]}" for kind, n in counts.items() if kind in KINDS]
    return ", ".join(known) or "nothing"


_counted: ContextVar[Hidden | None] = ContextVar("counted", default=None)


@contextmanager
def counting() -> Iterator[Hidden]:
    """Collect what is hidden by this thread while the context is open."""
    hidden = Hidden()
    token = _counted.set(hidden)
    try:
        yield hidden
    finally:
        _counted.reset(token)


def text(value: str, hosts: Iterable[str] = (), *, addresses: bool = True) -> str:
    """Return the string without secrets, hosts, users and addresses, every absolute path cut to its last component.

    Args:
        value: any string.
        hosts: names of machines and users to hide, besides those of this machine.
        addresses: whether a value that is only four numbers with dots is an IP address; False for versions.
    """
    find = _seen if len(value) <= LONG else _hide
    return _noted(find(value, tuple(hosts), addresses, False))


def command(argv: Sequence[str], hosts: Iterable[str] = ()) -> list[str]:
    """Return a command line that may be published.

    Like ``text``, but ``NAME=value`` prefixes whose names look secret (``HF_TOKEN=...``) are dropped too, and so are
    the values of options whose names do (``--api-key``, ``-u``, ``-p``, ``-H``).
    """
    known = tuple(hosts)
    out: list[str] = []
    for shown, secret in _argv.parts(argv):
        if secret is not None and HIDDEN not in secret:
            note("secret", secret)
        if shown is None or shown == HIDDEN:
            out += [shown] if shown else []
            continue
        kept = _noted(_argv.inside(_noted(_argv.without_assignments(shown))))
        if kept or kept == shown:
            out.append(_noted(_seen(kept, known, True, True)))
    return out


def tree(value: Any, hosts: Iterable[str] = (), *, name: str = "") -> Any:
    """Return nested dictionaries and lists with ``text`` applied to every string, keys included.

    Args:
        value: a JSON value.
        hosts: as in ``text``; names in the tree itself (``names_in``) are added.
        name: the key of the value: values under ``host``, ``user``, ``token`` and the like are hidden.
    """
    return _tree(value, (*hosts, *names_in(value)), name)


def _tree(value: Any, hosts: tuple[str, ...], name: str) -> Any:
    kind = names.kind_of_key(name)
    if kind and value not in (None, "", HIDDEN) and not isinstance(value, bool | int | float):
        note(kind, str(value))
        return HIDDEN
    if isinstance(value, str):
        return text(value, hosts, addresses="version" not in name.lower())
    if isinstance(value, dict):
        # The key of a version is a package, which may be called like a secret; "version" in it also keeps 1.2.3.4.
        inherited = "versions" if name == "versions" else ""
        return {
            text(str(k), hosts): _tree(v, hosts, str(k) if not inherited else f"version {k}") for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_tree(v, hosts, "") for v in value]
    return value


def names_in(value: Any) -> list[str]:
    """Return the hosts and users under keys such as ``host`` and ``user`` in a tree, the longest first."""
    return sorted(set(names.in_tree(value)), key=len, reverse=True)


@cache
def this_machine() -> tuple[str, ...]:
    """Return the names of this machine and its user that are worth hiding."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    return tuple(n for n in (platform.node(), user) if names.is_telling(n))


def _hide(value: str, hosts: tuple[str, ...], addresses: bool, in_argv: bool) -> Found:
    found: list[tuple[str, str]] = []
    # Paths last: what is cut off must have been searched before.
    value = secrets.hide(value, in_argv, found)
    value = names.hide(value, (*hosts, *this_machine()), found)
    value = names.hide_addresses(value, addresses, in_argv, found)
    return places.hide(value, found), tuple(found)


_seen = lru_cache(200_000)(_hide)  # a report repeats the same names a million times


def _noted(found: Found) -> str:
    value, things = found
    for kind, thing in things:
        note(kind, thing)
    return value


def note(kind: str, thing: str) -> None:
    """Record a thing as hidden, if a ``counting`` context is open."""
    hidden = _counted.get()
    if hidden is not None:
        hidden.found[kind].add(thing)
