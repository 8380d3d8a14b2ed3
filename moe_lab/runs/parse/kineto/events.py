# SPDX-License-Identifier: Apache-2.0
"""The events of a torch.profiler (Kineto) trace that attribution needs, as numpy arrays; absent values are -1."""

import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.parse.kineto.values import amount, encodable, integer, known, span, text, three
from moe_lab.spec.ranges import display_name

# Categories in lower case, with their older spellings (torch 1.8 wrote `Kernel` and `Runtime`).
OPERATIONS = {"kernel": 0, "gpu_memcpy": 1, "memcpy": 1, "gpu_memset": 2, "memset": 2}
CALLS = ("cuda_runtime", "cuda_driver", "runtime", "driver")
OPERATORS = ("cpu_op", "operator")
ANNOTATION, PYTHON = "user_annotation", "python_function"
MODULE = "nn.Module: "  # prefix of the python_function events that are calls of modules
GEOMETRY = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
OPERATION: tuple[str, ...] = ("start", "end", "device", "stream", "correlation", "external", "graph_node", "bytes")
OPERATION += ("registers", "smem", "place", "row")  # place: the event's pid, which mostly repeats the device
CALL = ("start", "end", "pid", "tid", "correlation", "graph", "external", "row")
SMALL_ID = 2**62  # numbers from here on stand for ids that are texts or too large
RANGE = ("start", "end", "pid", "tid", "external", "row")
_STEP = re.compile(r"(ProfilerStep)#\d+")
_COPY = re.compile(r"Memcpy (\w)to(\w)")
_MEMORY = {"H": "host", "D": "device", "A": "array", "P": "peer"}


@dataclass
class Table:
    """Rows of integers with a name each, in arrays and not lists: 8 bytes a number while millions are read.

    Attributes:
        columns: what the integers are.
        rows: the integers, row after row.
        code: index into ``names`` for every row.
        names: the distinct names.
    """

    columns: tuple[str, ...]
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    code: "array[int]" = field(default_factory=lambda: array("q"))
    names: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.code)

    def add(self, name: str, row: tuple[int, ...]) -> None:
        """Add a row."""
        self.rows.extend(row)
        self.code.append(self.names.setdefault(name, len(self.names)))

    def arrays(self) -> dict[str, Ints]:
        """Return the columns, and ``name``: int64 [n] each."""
        values = np.array(self.rows, np.int64).reshape(-1, len(self.columns))
        found = {c: np.ascontiguousarray(values[:, i]) for i, c in enumerate(self.columns)}
        return found | {"name": np.array(self.code, np.int64)}


@dataclass
class Tables:
    """What a trace holds.

    Attributes:
        operations: of each kind (kernel, memcpy, memset), columns ``OPERATION`` and ``GEOMETRY``, in file order.
        calls: API calls with a correlation id, columns ``CALL``.
        annotations: user annotations, columns ``RANGE``.
        modules: calls of nn.Module, which a trace has ``with_stack=True``; columns ``RANGE``.
        operators: PyTorch operators, columns ``RANGE``.
        partial: number of GPU operations that are not complete events (``ph`` is not X) and so have no duration.
        numbers: process and thread ids that are not small integers, such as texts, and the numbers given to them.
    """

    operations: tuple[Table, Table, Table]
    calls: Table
    annotations: Table
    modules: Table
    operators: Table
    partial: int = 0
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        """Return a process or thread id as a number >= 0, a different number for every id."""
        if type(value) is int and 0 <= value < SMALL_ID:
            return value
        whole = integer(value)
        if 0 <= whole < SMALL_ID:
            return whole
        key = encodable(value) if isinstance(value, str) else str(value) if type(value) is int else ""
        return self.numbers.setdefault(key, SMALL_ID + len(self.numbers))


def read(events: Iterable[dict[str, Any]]) -> Tables:
    """Sort complete events into tables; all others are skipped."""
    kinds = (Table(OPERATION + GEOMETRY), Table(OPERATION + GEOMETRY), Table(OPERATION + GEOMETRY))
    tables = Tables(kinds, Table(CALL), Table(RANGE), Table(RANGE), Table(RANGE))
    sorted_by: dict[str, tuple[Table, Callable[..., tuple[int, ...]]]] = {
        **{category: (kinds[kind], _operation) for category, kind in OPERATIONS.items()},
        **dict.fromkeys(CALLS, (tables.calls, _call)),
        **dict.fromkeys(OPERATORS, (tables.operators, _range)),
        ANNOTATION: (tables.annotations, _range),
        PYTHON: (tables.modules, _range),
    }
    for row, event in enumerate(events):
        said, name = event.get("cat"), event.get("name")
        category = said.lower() if isinstance(said, str) else ""
        if category not in sorted_by:
            continue
        if event.get("ph") != "X":
            tables.partial += category in OPERATIONS
            continue
        if category == PYTHON and not (isinstance(name, str) and name.startswith(MODULE)):
            continue
        (table, make), args = sorted_by[category], event.get("args")
        where = f"event {row + 1} ({category})"
        row_of = make(tables, event, args if isinstance(args, dict) else {}, row)
        table.add(text(name, where), (*span(event, where), *row_of))
    return tables


def _operation(tables: Tables, event: dict[str, Any], args: dict[str, Any], row: int) -> tuple[int, ...]:
    return (
        integer(args.get("device", event.get("pid"))),
        integer(args.get("stream", event.get("tid"))),
        known(args.get("correlation")),
        _external(args),
        known(args.get("graph node id")),
        amount(args.get("bytes")),
        amount(args.get("registers per thread")),
        amount(args.get("shared memory")),
        tables.number(event.get("pid")),
        row,
        *three(args.get("grid")),
        *three(args.get("block")),
    )


def _call(tables: Tables, event: dict[str, Any], args: dict[str, Any], row: int) -> tuple[int, ...]:
    name = event.get("name")
    graph = isinstance(name, str) and "GraphLaunch" in name
    where = tables.number(event.get("pid")), tables.number(event.get("tid"))
    return *where, known(args.get("correlation")), int(graph), _external(args), row


def _range(tables: Tables, event: dict[str, Any], args: dict[str, Any], row: int) -> tuple[int, ...]:
    return tables.number(event.get("pid")), tables.number(event.get("tid")), _external(args), row


def _external(args: dict[str, Any]) -> int:
    return known(args.get("External id", args.get("external id")))  # older traces write it in lower case


def range_name(name: str) -> str:
    """Return a range's name as shown: steps without their number, modules without their prefix."""
    return _STEP.sub(r"\1", display_name(name.removeprefix(MODULE)))


def copy_name(name: str) -> str:
    """Return ``memcpy host to device`` for ``Memcpy HtoD (Pageable -> Device)``, ``memset`` for ``Memset (Device)``."""
    found = _COPY.match(name)
    if found and set(found.groups()) <= set(_MEMORY):
        return "memcpy {} to {}".format(*(_MEMORY[letter] for letter in found.groups()))
    return "memset" if name.startswith("Memset") else name
