"""Sentences on what a trace itself shows to be missing or doubtful; the same words for every format."""

import numpy as np

from moe_lab.assemble import Operations
from moe_lab.attribute import Bools, Ints, distinct

OVERLAP_NS = 1000  # two kernels of a stream may share so much: the grain of the clocks
TIMES = 2**61  # ns, 73 years: no time reaches it, and sums and doubled times stay within 64 bits


def impossible(start: Ints, end: Ints) -> Bools:
    """Return which times cannot be true: negative, beyond ``TIMES``, ended before begun, or too long to be summed.

    Args:
        start: int64 [n], ns; -1 = none.
        end: int64 [n], ns.
    """
    wrong = (start < 0) | (end < start) | (end >= TIMES)
    length = np.where(wrong, 0, end - np.where(wrong, end, start))
    if len(length) and length.astype(np.float64).sum() >= TIMES:
        wrong |= length >= TIMES // len(length)
    return np.asarray(wrong, bool)


def without_kernels(count: int, api: str, then: str) -> str:
    """Return the sentence on graph launches whose kernels are not in the report.

    Args:
        count: graph launches.
        api: CUDA or HIP.
        then: what to do, as the end of the sentence.
    """
    return (
        f"The report has {count} {api} graph launches without the kernels inside them: these are missing from every "
        f"number; {then}."
    )


def overruns(ops: Operations) -> str | None:
    """Return a sentence on kernels that end after the next kernel of their stream has started, None if there are none.

    A stream runs one kernel after the other, but for programmatic dependent launch (the next kernel's first
    instructions run early) and for graphs (branches share a stream), so times are kept as the report has them.

    Args:
        ops: the operations; columns device and stream say which share a stream, negative = not known.
    """
    if not {"device", "stream"} <= set(ops.columns):
        return None
    device, stream = ops.columns["device"], ops.columns["stream"]
    known = (ops.process != -1) | (ops.process == -1).all()
    rows = np.flatnonzero((ops.kind == 0) & (stream >= 0) & known)
    if len(rows) < 2:
        return None
    line = distinct(ops.process[rows], device[rows], stream[rows])[1]
    order = np.lexsort((ops.start[rows], line))
    rows, line = rows[order], line[order]
    over = np.where(line[1:] == line[:-1], ops.end[rows[:-1]] - ops.start[rows[1:]], 0)
    over = over[over > OVERLAP_NS]
    if not len(over):
        return None
    return (
        f"{len(over)} kernels still run when the next kernel of their stream starts, {over.sum() / 1e6:.4f} ms in all "
        f"(the longest by {over.max() / 1e6:.4f} ms): kernel sums include it; programmatic dependent launch "
        "and branches of a graph do so, anything else is a wrong duration in the report."
    )
