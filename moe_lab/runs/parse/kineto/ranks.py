# SPDX-License-Identifier: Apache-2.0
"""Which process an operation belongs to, in a trace merged from several ranks: Kineto names only its device."""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.keys import Bools, Ints, distinct, groups, runs

SLACK_NS = 1_000_000  # by which the clocks of CPU and GPU may differ
PAIRS = 50_000_000  # most pairs of an operation and a call with the same id


@dataclass(frozen=True)
class Owners:
    """Processes of operations.

    Attributes:
        process: int64 [n], -1 = not known.
        shared: number of operations whose correlation id several processes use.
        unknown: number of those whose process cannot be told.
        repeated: number of operations whose correlation id their process used for several calls, one after another.
    """

    process: Ints
    shared: int
    unknown: int
    repeated: int


def owners(op: dict[str, Ints], call: dict[str, Ints], others: list[dict[str, Ints]]) -> Owners:
    """Find the process of every operation by the calls that have its correlation id.

    Where several processes use an id, candidates are ruled out in turn: a call that begins after the operation cannot
    be the one; one with the same External id is preferred, then one of the process among whose events the operation
    is written in the file. The rest follows from the GPU, if there are as many GPUs as processes: either all known
    operations of the GPU belong to one process, or only one GPU and one process are left.

    Args:
        op: columns start, correlation, external, device, place and row of the operations.
        call: columns start, end, pid, correlation, external and row of the calls.
        others: further events on the CPU, columns pid and row.
    """
    pids = np.unique(np.concatenate([call["pid"], others[-1]["pid"]]))
    process = np.full(len(op["row"]), pids[0] if len(pids) == 1 else -1, np.int64)
    shared = unknown = 0
    if len(pids) > 1:
        pairs = _Pairs(op, call)
        several = pairs.several()
        # From the surest fact to the weakest; each one only decides what those before it left open.
        pairs.prefer(call["start"][pairs.call] <= op["start"][pairs.op] + SLACK_NS)
        external = op["external"][pairs.op]
        pairs.prefer((external >= 0) & (external == call["external"][pairs.call]))
        pairs.prefer(_between(op["row"], call, [call, *others])[pairs.op] == call["pid"][pairs.call])
        gpu = distinct(op["device"], op["place"])[1]
        owner = _by_gpu(gpu, pairs.process(), np.unique(call["pid"][call["correlation"] >= 0]))
        pairs.prefer(owner[gpu[pairs.op]] == call["pid"][pairs.call])
        process = pairs.process()
        shared, unknown = int(several.sum()), int((several & (process == -1)).sum())
    repeated = _repeated(op, call, process)
    process[repeated] = -1
    return Owners(process, shared, unknown, int(repeated.sum()))


class _Pairs:
    """Pairs of an operation and a call that may have launched it: rows, int64 [k]; of each process its first call."""

    def __init__(self, op: dict[str, Ints], call: dict[str, Ints]) -> None:
        self.pid, self.count = call["pid"], len(op["row"])
        calls = np.flatnonzero(call["correlation"] >= 0)
        calls = calls[distinct(call["correlation"][calls], call["pid"][calls])[0]]
        ids = call["correlation"][calls]
        first, last = (np.searchsorted(ids, op["correlation"], side) for side in ("left", "right"))
        many = np.where(op["correlation"] >= 0, last - first, 0)
        if many.sum() > PAIRS:  # a damaged trace with one id on everything: better unknown than out of memory
            many[many > 1] = 0
        self.op = np.repeat(np.arange(self.count), many)
        self.call = calls[runs(first, many)]

    def several(self) -> Bools:
        """Return which operations have more than one call left: bool [n]."""
        found: Bools = np.bincount(self.op, minlength=self.count) > 1
        return found

    def prefer(self, good: Bools) -> None:
        """Of operations that have any good call, keep only the good ones."""
        any_good = np.zeros(self.count, bool)
        any_good[self.op[good]] = True
        kept = good | ~any_good[self.op]  # if no call of an operation is good, the fact decides nothing
        self.op, self.call = self.op[kept], self.call[kept]

    def process(self) -> Ints:
        """Return the process of each operation that has one call left, else -1: int64 [n]."""
        found = np.full(self.count, -1, np.int64)
        one = ~self.several()[self.op]
        found[self.op[one]] = self.pid[self.call[one]]
        return found


def _between(row: Ints, call: dict[str, Ints], events: list[dict[str, Ints]]) -> Ints:
    """Return the process between whose first and last CPU event each row lies; -1 for all rows if processes overlap."""
    pid, at = (np.concatenate([e[c] for e in events]) for c in ("pid", "row"))
    parts = sorted((int(at[rows].min()), int(at[rows].max()), int(pid[rows[0]])) for rows in groups(pid))
    first, last, own = (np.array(c, np.int64) for c in zip(*parts, strict=True))
    if (last[:-1] > first[1:]).any():
        return np.full(len(row), -1, np.int64)
    part = np.searchsorted(first, row, side="right") - 1
    return np.where((part >= 0) & (row < last[part]), own[part], -1)


def _by_gpu(gpu: Ints, process: Ints, pids: Ints) -> Ints:
    """Return the process of each GPU; -1 = not known, or several."""
    count = int(gpu.max(initial=-1)) + 1
    owner = np.full(count, -1, np.int64)
    if count < len(pids):  # every process may number its own GPU 0
        return owner
    known = process >= 0
    first, _ = distinct(gpu[known], process[known])
    pairs = gpu[known][first], process[known][first]
    alone = np.bincount(pairs[0], minlength=count)
    one = alone[pairs[0]] == 1
    owner[pairs[0][one]] = pairs[1][one]
    open_gpus, open_pids = np.flatnonzero(alone == 0), np.setdiff1d(pids, pairs[1])
    # With as many GPUs as processes, if all but one of each are paired, the two that are left belong together.
    if count == len(pids) and len(open_gpus) == len(open_pids) == 1:
        owner[open_gpus] = open_pids
    return owner


def _repeated(op: dict[str, Ints], call: dict[str, Ints], process: Ints) -> Bools:
    """Return which operations have a correlation id that their process used for several calls in turn: bool [n]."""
    calls = np.flatnonzero(call["correlation"] >= 0)
    calls = calls[np.lexsort((call["start"][calls], call["correlation"][calls], call["pid"][calls]))]
    pid, ids = call["pid"][calls], call["correlation"][calls]
    # Calls that overlap are one launch, recorded by both runtime and driver; calls one after another reuse the id.
    apart = call["start"][calls[1:]] > call["end"][calls[:-1]]
    again = np.flatnonzero((pid[1:] == pid[:-1]) & (ids[1:] == ids[:-1]) & apart)
    if not len(again):
        return np.zeros(len(process), bool)
    code = distinct(np.concatenate([pid[again], process]), np.concatenate([ids[again], op["correlation"]]))[1]
    found: Bools = np.isin(code[len(again) :], code[: len(again)])
    return found
