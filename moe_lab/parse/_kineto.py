"""The events of a torch.profiler (Kineto) trace that attribution needs, as numpy arrays; absent values are -1."""

import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moe_lab.attribute import Ints
from moe_lab.parse._chrome import nanoseconds
from moe_lab.ranges import display_name

# Categories, older spellings too (torch 1.8 wrote `Kernel` and `Runtime`), in lower case.
OPERATIONS = {"kernel": 0, "gpu_memcpy": 1, "memcpy": 1, "gpu_memset": 2, "memset": 2}
CALLS = ("cuda_runtime", "cuda_driver", "runtime", "driver")
OPERATORS = ("cpu_op", "operator")
ANNOTATION, PYTHON = "user_annotation", "python_function"
MODULE = "nn.Module: "  # how module calls begin among python_function events
GEOMETRY = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")
OPERATION = ("start", "end", "device", "stream", "correlation", "external", "graph_node", "bytes", "registers", "smem")
CALL = ("start", "end", "pid", "tid", "correlation", "graph")
RANGE = ("start", "end", "pid", "tid", "external", "row")
_STEP = re.compile(r"(ProfilerStep)#\d+")
_COPY = re.compile(r"Memcpy (\w)to(\w)")
_MEMORY = {"H": "host", "D": "device", "A": "array", "P": "peer"}


@dataclass
class Table:
    """Rows of integers with a name each, while reading.

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
    """

    operations: tuple[Table, Table, Table]
    calls: Table
    annotations: Table
    modules: Table
    operators: Table


def read(events: Iterable[dict[str, Any]]) -> Tables:
    """Sort complete events into tables; all others are passed over."""
    kinds = (Table(OPERATION + GEOMETRY), Table(OPERATION + GEOMETRY), Table(OPERATION + GEOMETRY))
    tables = Tables(kinds, Table(CALL), Table(RANGE), Table(RANGE), Table(RANGE))
    for row, event in enumerate(events):
        if event.get("ph") == "X":
            add(tables, event, row)
    return tables


def add(tables: Tables, event: dict[str, Any], row: int) -> Table | None:
    """Put an event into its table; return that table, None if the event is none of those that are read."""
    category = str(event.get("cat", "")).lower()
    target: Table
    make: Callable[[dict[str, Any], dict[str, Any], int, int, int], tuple[int, ...]]
    name = str(event.get("name") or "(unnamed)")
    if category in OPERATIONS:
        target, make = tables.operations[OPERATIONS[category]], _operation
    elif category in CALLS:
        target, make = tables.calls, _call
    elif category == ANNOTATION:
        target, make = tables.annotations, _range
    elif category in OPERATORS:
        target, make = tables.operators, _range
    elif category == PYTHON and name.startswith(MODULE):
        target, make = tables.modules, _range
    else:
        return None
    start = nanoseconds(event.get("ts"))
    args = event.get("args")
    found = make(
        event, args if isinstance(args, dict) else {}, start, start + max(nanoseconds(event.get("dur", 0)), 0), row
    )
    target.add(name, found)
    return target


def _operation(event: dict[str, Any], args: dict[str, Any], start: int, end: int, row: int) -> tuple[int, ...]:
    return (
        start,
        end,
        _int(args.get("device", event.get("pid"))),
        _int(args.get("stream", event.get("tid"))),
        _id(args.get("correlation")),
        _external(args),
        _id(args.get("graph node id")),
        _int(args.get("bytes")),
        _int(args.get("registers per thread")),
        _int(args.get("shared memory")),
        *_three(args.get("grid")),
        *_three(args.get("block")),
    )


def _call(event: dict[str, Any], args: dict[str, Any], start: int, end: int, row: int) -> tuple[int, ...]:
    graph = "GraphLaunch" in str(event.get("name"))
    return start, end, _int(event.get("pid")), _int(event.get("tid")), _id(args.get("correlation")), int(graph)


def _range(event: dict[str, Any], args: dict[str, Any], start: int, end: int, row: int) -> tuple[int, ...]:
    return start, end, _int(event.get("pid")), _int(event.get("tid")), _external(args), row


def _int(value: Any) -> int:
    return value if type(value) is int else int(value) if isinstance(value, str) and value.isdigit() else -1


def _id(value: Any) -> int:
    """Return an id; 0 is Kineto's word for none."""
    return _int(value) or -1


def _external(args: dict[str, Any]) -> int:
    return _id(args.get("External id", args.get("external id")))


def _three(value: Any) -> tuple[int, int, int]:
    if isinstance(value, list) and len(value) == 3:
        x, y, z = value
        return _int(x), _int(y), _int(z)
    return -1, -1, -1


def range_name(name: str) -> str:
    """Return a range's name as shown: without the number of the single step, modules without their prefix."""
    return _STEP.sub(r"\1", display_name(name.removeprefix(MODULE)))


def copy_name(name: str) -> str:
    """Return ``memcpy host to device`` for ``Memcpy HtoD (Pageable -> Device)``, ``memset`` for ``Memset (Device)``."""
    found = _COPY.match(name)
    if found and set(found.groups()) <= set(_MEMORY):
        return "memcpy {} to {}".format(*(_MEMORY[letter] for letter in found.groups()))
    return "memset" if name.startswith("Memset") else name
