"""Absolute paths: cut to their last component, and home folders to ``home``, whose name is a person's."""

import re

_PART = r"[^\s\\/'\"<>()\[\]{}|,;:=*?&]+"
# An absolute path: not after a word, so that `tokens/s` and `a/b` stay, unless it begins as only paths do. Windows
# paths and file:// count too.
_KNOWN = r"/+(?:home|root|Users|mnt|tmp|opt|usr|var|scratch|lustre|nfs|srv)(?=/)"
_PATH = re.compile(rf"(?:(?<![\w.\])}}~-])(?:~|[A-Za-z]:(?=[\\/]))?[\\/]+{_PART}|{_KNOWN})(?:[\\/]+{_PART})*[\\/]*")
_SPLIT = re.compile(r"[\\/]+")
_HOMES = ("home", "users")
_OF_OTHER = re.compile(r"(?<![\w~])~[A-Za-z][\w.-]*(?=[\\/])")


def hide(value: str, found: list[tuple[str, str]]) -> str:
    """Return the string with its paths cut; what was cut is added to ``found``."""
    if "/" not in value and "\\" not in value:
        return value

    def cut(match: re.Match[str]) -> str:
        whole = match.group(0)
        parts = [p for p in _SPLIT.split(whole) if p]
        last = parts[-1] if parts else ""
        if len(parts) > 1 and parts[-2].lower() in _HOMES and parts[0].lower() in (*_HOMES, "c:", "d:"):
            last = "home"
        if last != whole:
            found.append(("path", whole))
        return last

    return _PATH.sub(cut, _OF_OTHER.sub("~", value))
