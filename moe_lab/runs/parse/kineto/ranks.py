"""Which process ran an operation, in a trace that several ranks were merged into: Kineto names the device only."""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.keys import Bools, Ints, distinct, groups, runs

SLACK_NS = 1_000_000  # by which clocks of CPU and GPU may differ
PAIRS = 50_000_000  # of operations and calls with the same id that are looked at


@dataclass(frozen=True)
class Owners:
    """Processes of operations.

    Attributes:
        process: int64 [n], -1 = not known.
        shared: operations whose correlation id several processes use.
        unknown: those of them whose process cannot be told.
        repeated: operations whose correlation id several calls of their process use, one after the other.
    """

    process: Ints
    shared: int
    unknown: int
    repeated: int


def owners(op: dict[str, Ints], call: dict[str, Ints], others: list[dict[str, Ints]]) -> Owners:
    """Find the process of every operation by the calls that have its correlation id.

    Where several processes use an id, a call that begins after the operation is none of its, one with the same
    External id is, and so is one of the process between whose events the operation stands in the file. What this
    leaves open follows from the GPU, if there are as many as processes: all that is known of it belongs to one process,
    or one GPU and one process are left.

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
    """Operations and the calls that may have launched them: rows of each, int64 [k]; the first call of a process."""

    def __init__(self, op: dict[str, Ints], call: dict[str, Ints]) -> None:
        self.pid, self.count = call["pid"], len(op["row"])
        calls = np.flatnonzero(call["correlation"] >= 0)
        calls = calls[distinct(call["correlation"][calls], call["pid"][calls])[0]]
        ids = call["correlation"][calls]
        first, last = (np.searchsorted(ids, op["correlation"], side) for side in ("left", "right"))
        many = np.where(op["correlation"] >= 0, last - first, 0)
        if many.sum() > PAIRS:  # one id on everything, as a damaged trace has: better not known than out of memory
            many[many > 1] = 0
        self.op = np.repeat(np.arange(self.count), many)
        self.call = calls[runs(first, many)]

    def several(self) -> Bools:
        """Return which operations have more than one call left: bool [n]."""
        found: Bools = np.bincount(self.op, minlength=self.count) > 1
        return found

    def prefer(self, good: Bools) -> None:
        """Keep only the good calls of an operation that has any."""
        any_good = np.zeros(self.count, bool)
        any_good[self.op[good]] = True
        kept = good | ~any_good[self.op]  # a fact that speaks for no call of an operation says nothing about it
        self.op, self.call = self.op[kept], self.call[kept]

    def process(self) -> Ints:
        """Return the process of each operation that has one call left, else -1: int64 [n]."""
        found = np.full(self.count, -1, np.int64)
        one = ~self.several()[self.op]
        found[self.op[one]] = self.pid[self.call[one]]
        return found


def _between(row: Ints, call: dict[str, Ints], events: list[dict[str, Ints]]) -> Ints:
    """Return the process between whose first and last event on the CPU each row lies, if such parts do not overlap."""
    pid, at = (np.concatenate([e[c] for e in events]) for c in ("pid", "row"))
    parts = sorted((int(at[rows].min()), int(at[rows].max()), int(pid[rows[0]])) for rows in groups(pid))
    first, last, own = (np.array(c, np.int64) for c in zip(*parts, strict=True))
    if (last[:-1] > first[1:]).any():
        return np.full(len(row), -1, np.int64)
    part = np.searchsorted(first, row, side="right") - 1
    return np.where((part >= 0) & (row < last[part]), own[part], -1)


def _by_gpu(gpu: Ints, process: Ints, pids: Ints) -> Ints:
    """Return the process of each GPU, -1 = not known or several."""
    count = int(gpu.max(initial=-1)) + 1
    owner = np.full(count, -1, np.int64)
    if count < len(pids):  # each may call its GPU 0
        return owner
    known = process >= 0
    first, _ = distinct(gpu[known], process[known])
    pairs = gpu[known][first], process[known][first]
    alone = np.bincount(pairs[0], minlength=count)
    one = alone[pairs[0]] == 1
    owner[pairs[0][one]] = pairs[1][one]
    open_gpus, open_pids = np.flatnonzero(alone == 0), np.setdiff1d(pids, pairs[1])
    # As many GPUs as processes, and all but one of each are paired: what is left belongs together.
    if count == len(pids) and len(open_gpus) == len(open_pids) == 1:
        owner[open_gpus] = open_pids
    return owner


def _repeated(op: dict[str, Ints], call: dict[str, Ints], process: Ints) -> Bools:
    """Return which operations have a correlation id that calls of their process use one after the other: bool [n]."""
    calls = np.flatnonzero(call["correlation"] >= 0)
    calls = calls[np.lexsort((call["start"][calls], call["correlation"][calls], call["pid"][calls]))]
    pid, ids = call["pid"][calls], call["correlation"][calls]
    # Calls that overlap are one launch, seen in the runtime and in the driver; one after the other, the id came again.
    apart = call["start"][calls[1:]] > call["end"][calls[:-1]]
    again = np.flatnonzero((pid[1:] == pid[:-1]) & (ids[1:] == ids[:-1]) & apart)
    if not len(again):
        return np.zeros(len(process), bool)
    code = distinct(np.concatenate([pid[again], process]), np.concatenate([ids[again], op["correlation"]]))[1]
    found: Bools = np.isin(code[len(again) :], code[: len(again)])
    return found
