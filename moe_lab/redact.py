"""Take out of strings what must not leave the profiled machine: paths, host names and secrets."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_PART = r"[^\s\\/'\"<>()\[\]{}|,;:=*?&]+"
# An absolute path: not after a word, so that `tokens/s` and `a/b` stay, unless it begins as only paths do. Windows
# paths and file:// count too.
_KNOWN = r"/+(?:home|root|Users|mnt|tmp|opt|usr|var|scratch|lustre|nfs|srv)(?=/)"
_PATH = re.compile(rf"(?:(?<![\w.\])}}~-])(?:~|[A-Za-z]:(?=[\\/]))?[\\/]+{_PART}|{_KNOWN})(?:[\\/]+{_PART})*[\\/]*")
_SECRET = "TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|KEY"
_ASSIGNED = re.compile(rf"(?<![\w-])[A-Za-z_]*(?:{_SECRET})[A-Z0-9_]*=(?:'[^']*'|\"[^\"]*\"|\S*)\s*")
_OPTION = re.compile(r"--?[\w-]*?(?:token|secret|password|passwd|credential|auth|api[-_]?key)", re.IGNORECASE)
HIDDEN = "[redacted]"


def text(value: str, hosts: Iterable[str] = ()) -> str:
    """Return the string with every absolute path cut to its last component and every host name replaced."""
    for host in hosts:
        value = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "host", value)
    return (
        _PATH.sub(lambda found: re.split(r"[\\/]+", found.group(0).rstrip("\\/"))[-1], value)
        if _pathlike(value)
        else value
    )


def command(argv: Sequence[str], hosts: Iterable[str] = ()) -> list[str]:
    """Return a command line that may be published.

    Paths are cut to their last component, ``NAME=value`` prefixes whose names look secret (``HF_TOKEN=...``) are
    dropped, and the values of options whose names do (``--api-key``) are replaced.
    """
    out: list[str] = []
    hide = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        secret = _OPTION.fullmatch(name) is not None
        if hide or (secret and equals):
            out.append(HIDDEN if hide else f"{name}={HIDDEN}")
        else:
            kept = _ASSIGNED.sub("", argument)
            out += [text(kept, hosts)] if kept or kept == argument else []
        hide = secret and not equals
    return out


def tree(value: Any, hosts: Iterable[str] = ()) -> Any:
    """Return nested dictionaries and lists with ``text`` applied to every string, keys included."""
    if isinstance(value, str):
        return text(value, hosts)
    if isinstance(value, dict):
        return {text(str(k), hosts): tree(v, hosts) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tree(v, hosts) for v in value]
    return value


def _pathlike(value: str) -> bool:
    return "/" in value or "\\" in value
