# SPDX-License-Identifier: Apache-2.0
"""Absolute paths: cut to their last component; a home folder, whose name is a person's, becomes ``home``.

URLs stay, but the host of a URL that is only known in its own network is hidden.
"""

import re

_PART = r"[^\s\\/'\"<>()\[\]{}|,;:=*?&]+"
# An absolute path: not after a word, so that `tokens/s` and `a/b` stay, unless it begins like only a path does.
# Windows paths and file:// count, too.
_KNOWN = r"(?<![/\\])/+(?:home|root|Users|mnt|tmp|opt|usr|var|scratch|lustre|nfs|srv)(?=/)"
_PATH = re.compile(
    rf"(?P<web>(?<![A-Za-z])https?://(?:\[redacted\]@)?(?P<host>[\w.-]+)[^\s\"'<>()\[\]{{}}|\\,;]*)|(?:(?<![\w.\])}}~/\\-])(?:~|[A-Za-z]:(?=[\\/]))?[\\/]+{_PART}|{_KNOWN})(?:[\\/]+{_PART})*[\\/]*"
)
_SPLIT = re.compile(r"[\\/]+")
_HOMES = ("home", "users")
_OWN_NETWORK = re.compile(
    r"[^.]+|.*\.(?:local|localdomain|internal|intranet|lan|corp|home|svc|cluster|test)", re.IGNORECASE
)
_HOME = re.compile(r"/(?:home|Users)/[^/?#]+")
# ~name/ is the home folder of another user.
_OF_OTHER = re.compile(r"(?<![\w~])~[A-Za-z][\w.-]*(?=[\\/])")


def hide(value: str, found: list[tuple[str, str]]) -> str:
    """Return the string with its paths cut; what was cut is added to ``found``."""
    if "/" not in value and "\\" not in value:
        return value

    def cut(match: re.Match[str]) -> str:
        whole = match.group(0)
        if match.group("web"):
            return _web(match, found)
        parts = [p for p in _SPLIT.split(whole) if p]
        last = parts[-1] if parts else ""
        if len(parts) > 1 and parts[-2].lower() in _HOMES and parts[0].lower() in (*_HOMES, "c:", "d:"):
            last = "home"
        if last != whole:
            found.append(("path", whole))
        return last

    return _PATH.sub(cut, _OF_OTHER.sub("~", value))


def _web(match: re.Match[str], found: list[tuple[str, str]]) -> str:
    whole, host = match.group("web", "host")
    if host.lower() not in ("localhost", "host", "address") and _OWN_NETWORK.fullmatch(host):
        found.append(("host", host.lower()))
        start, end = (at - match.start() for at in match.span("host"))
        whole = f"{whole[:start]}host{whole[end:]}"
    kept = _HOME.sub("/home", whole)
    if kept != whole:
        found.append(("path", whole))
    return kept
