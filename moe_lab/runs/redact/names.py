# SPDX-License-Identifier: Apache-2.0
"""Names of machines and people, addresses, and ids of devices."""

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from moe_lab.runs.redact.secrets import HIDDEN, is_name

# Keys whose value is a host, a user, an id ..., whatever it looks like.
_KEYS = {
    **dict.fromkeys(("host", "hostname", "host_name", "node", "nodename", "node_name", "machine_name", "fqdn"), "host"),
    **dict.fromkeys(("user", "username", "user_name", "login", "owner", "logname", "email", "uname"), "user"),
    **dict.fromkeys(("uuid", "gpu_uuid", "serial", "serial_number"), "device"),
    **dict.fromkeys(("ip", "ip_address", "mac", "mac_address"), "address"),
    **dict.fromkeys(("env", "environ", "environment"), "secret"),
    **dict.fromkeys(("cwd", "home", "workdir", "pwd"), "path"),
}
# Names of machines or users that reveal nothing, or that mean something else which must stay readable.
_WORDS = """
localhost host user root admin ubuntu runner nobody gpu cpu cuda rocm moe layer torch triton python python3
kernel router align experts quant dispatch act combine node server model bench main default nvidia amd h100 h200
a100 mi300x decode prefill w13 w2 none unknown docker container linux debian redacted
"""
_COMMON = frozenset(_WORDS.split())
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}(?![\w-])")
_AT_HOST = re.compile(r"(?<![\w.+-])(?!(?:moe_lab|rank|gpu|node|worker|device|[tpde]p)\d*@)[\w.+-]+(?=@host\b)")
_LOGIN = re.compile(r"(?<![\w.@/-])(?!moe_lab@)[A-Za-z_][\w.-]*@[A-Za-z0-9][\w.-]*(?=:)")
_IPV4 = re.compile(r"(?<![\w.-])(?<!==)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_COLONS = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])")
_DEVICE = re.compile(r"\b(?:GPU|MIG)-(?:GPU-)?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_UUID = re.compile(r"(?<![\w-])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![\w-])")


def kind_of_key(key: str) -> str | None:
    """Return what kind of thing a key's value is, such as ``secret`` or ``host``; None if it may be published."""
    lower = key.lower()
    return _KEYS.get(lower) or ("secret" if is_name(key, in_argv=False) else None)


def in_tree(value: Any) -> Iterator[str]:
    """Yield the hosts and users under such keys."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if isinstance(inside, str) and _KEYS.get(str(key).lower()) in ("host", "user") and is_telling(inside):
                yield inside
            yield from in_tree(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from in_tree(inside)


def is_telling(name: str) -> bool:
    """Return whether a name reveals something, and hiding it removes nothing that matters."""
    return len(name) > 1 and name.lower() not in _COMMON and not name.isdigit() and HIDDEN not in name


def hide(value: str, known: tuple[str, ...], found: list[tuple[str, str]]) -> str:
    """Return the string with ``host`` in place of names of machines and users with their domain, ignoring case."""

    def put(match: re.Match[str]) -> str:
        found.append(("host", match.group(0).lower()))
        return "host"

    pattern = _pattern(known)
    return pattern.sub(put, value) if pattern else value


@lru_cache(1000)
def _pattern(known: tuple[str, ...]) -> re.Pattern[str] | None:
    wanted = {part for name in known for part in (name, name.partition(".")[0]) if is_telling(part)}
    if not wanted:
        return None
    # The longest first, as a short name may be the beginning of a long one.
    either = "|".join(re.escape(name) for name in sorted(wanted, key=lambda n: (-len(n), n)))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{either})(?:\.[A-Za-z][\w-]*)*(?![A-Za-z0-9-])", re.IGNORECASE)


def hide_addresses(value: str, ipv4: bool, in_argv: bool, found: list[tuple[str, str]]) -> str:
    """Return the string without e-mail, IP and MAC addresses and without the ids of devices.

    ``ipv4`` says whether a value that is only four numbers with dots is an address, which a version is not; loopback
    addresses stay. ``in_argv`` says whether ``name@machine:`` is a login. What was hidden is added to ``found``.
    """

    def put(kind: str, word: str) -> Any:
        def replace(match: re.Match[str]) -> str:
            if match.group(0) != word:
                found.append((kind, match.group(0)))
            return word

        return replace

    if "@" in value:
        value = _EMAIL.sub(put("address", "address"), value)
        value = _AT_HOST.sub(put("user", "user"), value)
        value = _LOGIN.sub(put("user", "user@host"), value) if in_argv else value
    if "-" in value or ":" in value:
        value = _DEVICE.sub(put("device", "GPU"), value)
        value = _UUID.sub(put("device", "id"), value)
        value = _MAC.sub(put("address", "address"), value)
        value = _COLONS.sub(lambda m: put("address", "address")(m) if _is_ipv6(m.group(0)) else m.group(0), value)
    if "." in value and (ipv4 or not _IPV4.fullmatch(value)):
        value = _IPV4.sub(lambda m: put("address", "address")(m) if _is_ipv4(m.group(0)) else m.group(0), value)
    return value


def _is_ipv4(text: str) -> bool:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


def _is_ipv6(text: str) -> bool:
    """Return whether it is an IPv6 address, and not ``a::b``, which is also C++."""
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return any(c.isdigit() for c in text) and len(text) > 6 and not found.is_loopback
