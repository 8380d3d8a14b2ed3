# SPDX-License-Identifier: Apache-2.0
"""Where outside data enters: bytes, JSON, YAML, names and places are checked once for type, size and characters.

Functions raise ``UserError`` with a full sentence, or, where they say so, ``ValueError`` with the reason alone. JSON is
read by msgspec, which is told the expected types and refuses NaN, trailing garbage and lone surrogates.
"""

import difflib
import re
from codecs import BOM_UTF8
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

import msgspec

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.wording import plainly

T = TypeVar("T")

FILE_BYTES = 64_000_000  # for files that are read as a whole: run.json, results, tiles, rules, notebooks
DEPTH = 64  # of nested lists and objects; ours have five
YAML_VALUES = 100_000  # a small file of nested aliases can stand for billions
INT64 = range(-(2**63), 2**63)
FEW = 8  # runs that a sentence can list
NAME_LENGTH = 100  # characters; file systems take 255 bytes, and suffixes follow
_DIGITS = re.compile(r"-?[0-9]{1,19}")
_PLAIN = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{NAME_LENGTH - 1}}}")
# Control characters, direction marks, line separators: a terminal, a log or a page would obey them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def read_bytes(path: Path, limit: int = FILE_BYTES) -> bytes:
    """Return the contents of a file.

    Raises:
        ValueError: it is missing, not a plain file, not readable, or larger than ``limit`` bytes.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # to open a pipe would wait for a writer
            raise ValueError("it is not a file")
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size / 1e6:.0f} MB, more than the limit of {limit / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None


def read_text(path: Path, limit: int = FILE_BYTES) -> str:
    """Return the text of a UTF-8 file without its byte order mark; raises as ``read_bytes``, and if it is not UTF-8."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def decode_json(data: bytes | str, kind: type[T] | Any = Any) -> T:
    """Return the JSON value.

    Args:
        data: UTF-8; a byte order mark is skipped.
        kind: what it must be: a type that msgspec knows, such as ``dict[str, Any]`` or a ``msgspec.Struct``.

    Raises:
        ValueError: it is not JSON, is not of ``kind``, is nested too deeply, or has a number that fits neither a double
            nor a 64-bit integer.
    """
    try:
        plain = data.lstrip("\ufeff") if isinstance(data, str) else data.removeprefix(BOM_UTF8)
        found: T = msgspec.json.decode(plain, type=kind)
        check_values(found)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    except UnicodeError:
        raise ValueError("it is not UTF-8 text") from None
    except msgspec.DecodeError as error:
        raise ValueError(one_line(plainly(str(error)))) from None
    return found


def conform(value: Any, kind: type[T] | Any) -> T:
    """Return a decoded value as the type that it must have, or raise ValueError; ``kind`` as in ``decode_json``."""
    try:
        found: T = msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(one_line(plainly(str(error)))) from None
    return found


def read_json(path: Path, kind: type[T] | Any = Any, *, what: str, then: str) -> T:
    """Read a JSON file.

    Args:
        path: the file.
        kind: see ``decode_json``.
        what: what it should be, for the error message: ``tuned tiles``.
        then: what to do if it is not, as the end of the message: ``make it with moe-lab tune``.

    Raises:
        UserError: it is not such a file.
    """
    try:
        found: T = decode_json(read_bytes(path), kind)
    except ValueError as error:
        raise unreadable(path, what, error, then) from None
    return found


def read_yaml(path: Path, *, what: str, then: str) -> Any:
    """Read a YAML file of plain values; arguments and errors as in ``read_json``."""
    import yaml

    try:
        text = read_text(path, 1_000_000)
        _check_yaml(text)
        # The loader in C is many times as fast, but PyYAML can be built without it.
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        check_values(found, YAML_VALUES)
    except RecursionError:
        raise unreadable(path, what, f"it is nested more than {DEPTH} deep", then) from None
    except (ValueError, TypeError, yaml.YAMLError) as error:  # ValueError: a date such as 2020-99-99
        raise unreadable(path, what, error, then) from None
    return found


def _check_yaml(text: str) -> None:
    """Raise ValueError if YAML repeats a key or is nested too deeply: loading would drop one, or run out of stack."""
    import yaml

    open_keys: list[set[str] | None] = []  # the keys so far of each open mapping, None for a list
    counts: list[int] = []  # nodes so far of each: in a mapping keys have odd numbers, values even ones
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.NodeEvent) and counts:
            keys, counts[-1] = open_keys[-1], counts[-1] + 1
            if keys is not None and counts[-1] % 2 and isinstance(event, yaml.ScalarEvent):
                if event.value in keys:
                    raise ValueError(f"it names '{one_line(event.value, 40)}' twice")
                keys.add(event.value)
        if isinstance(event, yaml.CollectionStartEvent):
            open_keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            counts.append(0)
        elif isinstance(event, yaml.CollectionEndEvent):
            open_keys.pop()
            counts.pop()
        if len(counts) > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")


def unreadable(path: Path, what: str, why: object, then: str) -> UserError:
    """Return the error for a file that is not what it should be."""
    return UserError(f"'{one_line(path.name)}' cannot be read as {what} ({one_line(str(why))}); {then}.")


def check_values(value: Any, most: int | None = None) -> None:
    """Raise ValueError if a value is nested too deeply, is too large, or has an integer that does not fit 64 bits."""
    # A stack instead of recursion, because the depth is what is checked. A YAML alias counts each time it is used.
    left: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while left:
        item, depth = left.pop()
        seen += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        if most is not None and seen > most:
            raise ValueError(f"it holds more than {most:,} values")
        if isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set):
            left += [(part, depth + 1) for part in item]
        elif type(item) is int and item not in INT64:
            raise ValueError("a number in it does not fit into 64 bits")  # nor into the int64 of a table


def plain_name(value: Any, what: str) -> str:
    """Return a name that may be one part of a path; for any other, raise a ValueError that calls it ``what``."""
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        raise ValueError(
            f"{what} is '{one_line(str(value), 40)}', not a plain name of at most {NAME_LENGTH} letters, digits and "
            "_ . + -"
        )
    return value


def below(folder: Path, path: Path) -> Path:
    """Return ``path`` if it lies below ``folder`` once links are followed, else UserError."""
    # Nothing is written or removed outside the folder that was named.
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise UserError(
            f"'{one_line(path.name)}' would lie outside the folder '{one_line(folder.name)}'; give a plain name."
        )
    return path


def meant(asked: str, runs: list[str]) -> str:
    """Return what to give instead of a name that no run has: those most like it, or all if they are few."""
    if not runs:
        return "give a report file, since there are no runs here."
    if len(runs) <= FEW:
        return f"give a report file or one of the runs: {', '.join(runs)}."
    ends = {name.split("/")[-1]: name for name in runs} | {name: name for name in runs}
    near = list(dict.fromkeys(ends[end] for end in difflib.get_close_matches(asked, ends, 4)))
    said = f"did you mean {' or '.join(near)}?" if near else "give a report file or a run:"
    return f"{said} `moe-lab runs` lists all {len(runs)}."


def one_line(text: str, length: int = 200) -> str:
    """Return the first line of a text, cut to ``length`` characters, with ``visible`` applied."""
    line = visible(next(iter(text.splitlines()), ""))
    return line if len(line) <= length else line[: length - 3] + "..."


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with control characters (except ``keep``), direction marks and lone surrogates as ``\x1b``."""
    return _CONTROL.sub(
        lambda found: found.group() if found.group() in keep else found.group().encode("unicode_escape").decode(), text
    )


def integer(text: Any, within: range = INT64) -> int:
    """Return the whole number written in plain digits, with or without a minus sign.

    Raises:
        ValueError: it is anything else that ``int`` would take (superscripts, underscores, spaces), or not ``within``.
    """
    if not isinstance(text, str) or not _DIGITS.fullmatch(text):
        raise ValueError(f"'{one_line(str(text), 40)}' is not a whole number")
    if int(text) not in within:
        raise ValueError(f"{text} is not within {within[0]} to {within[-1]}")
    return int(text)
