# SPDX-License-Identifier: Apache-2.0
"""Msgspec's messages about values of the wrong type, in the words of this project."""

import re

_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_WRONG = re.compile(r"Expected `(?P<wanted>[^`]+)`(?P<bound>.*?)(?:, got `(?P<got>[^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>.+)`")
_PLACE = re.compile(r"(?P<said>.*?) - at (?P<key>`key` in )?`\$\.?(?P<where>.*)`", re.DOTALL)


def plainly(said: str) -> str:
    """Return msgspec's message as ``'gpu.name' is a whole number instead of a text``; others stay as they are."""
    placed = _PLACE.fullmatch(said)
    said, where = (placed["said"], placed["where"]) if placed else (said, "")
    subject = f"'{where}'" if where else "it"
    if placed and placed["key"]:
        subject = f"a key in {subject}"
    if missing := _MISSING.fullmatch(said):
        return f"{subject} lacks '{missing['name']}'"
    if wrong := _WRONG.fullmatch(said):
        wanted = f"{_kinds(wrong['wanted'])}{wrong['bound']}"
        return (
            f"{subject} is {_kinds(wrong['got'])} instead of {wanted}" if wrong["got"] else f"{subject} is not {wanted}"
        )
    return f"{said} in {subject}" if placed else said


def _kinds(said: str) -> str:
    """Return the types in ``str | null`` in plain words."""
    # "or null" would not help: whoever wrote a value meant to give one.
    kinds = [kind for kind in said.split(" | ") if kind != "null"] or ["null"]
    return " or ".join(_KINDS.get(kind, kind) for kind in kinds)
