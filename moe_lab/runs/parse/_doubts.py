# SPDX-License-Identifier: Apache-2.0
"""Sentences on what is missing or doubtful as the trace itself shows; the same words for every format."""

from dataclasses import replace

import numpy as np

from moe_lab.runs.attribution.assemble import NONE, Operations
from moe_lab.runs.attribution.keys import Bools, Ints, distinct

OVERLAP_NS = 1000  # two kernels of a stream may seem to overlap by this much, as clocks are only so exact
OFTEN = 10  # times the longest kernel that it covers: no early start of the next kernel explains so long a kernel
TIMES = 2**61  # ns, 73 years: no real time reaches it, and sums and doubled times stay within 64 bits


def impossible(start: Ints, end: Ints) -> Bools:
    """Return which times cannot be true: negative, beyond ``TIMES``, end before start, or too long to be summed.

    ``start`` and ``end`` are int64 [n], ns; -1 = none. The result is bool [n].
    """
    wrong = (start < 0) | (end < start) | (end >= TIMES)
    length = np.where(wrong, 0, end - np.where(wrong, end, start))
    if len(length) and length.astype(np.float64).sum() >= TIMES:
        wrong |= length >= TIMES // len(length)
    return np.asarray(wrong, bool)


def without_kernels(count: int, api: str, then: str) -> str:
    """Return the sentence on ``count`` graph launches of CUDA or HIP without kernels; ``then`` says what to do."""
    return (
        f"The report has {count} {api} graph launches without the kernels inside them: these are missing from every "
        f"number; {then}."
    )


def negative(ops: Operations) -> list[str]:
    """Return a sentence on streams and devices below -1 (-1 itself means none); they are NA."""
    places = [ops.columns[c] < -1 for c in ("device", "stream") if c in ops.columns]
    count = int(np.logical_or.reduce(places).sum()) if places else 0
    return [f"{count} GPU operations have a negative stream or device, which cannot be: it is NA."] if count else []


def mended(ops: Operations, streams: bool = True) -> tuple[Operations, list[str]]:
    """Clip durations that are surely wrong, and count kernels that still run when the next of their stream starts.

    A stream runs one kernel after the other, except with programmatic dependent launch (the first instructions of the
    next kernel run early) and in graphs (branches share a stream), so most times are kept as the report has them.
    Neither lets a kernel cover two whole later kernels and last ``OFTEN`` times as long: such a kernel must have ended
    by the time the next one started.

    Args:
        ops: the operations; their columns device and stream say which share a stream, negative = not known.
        streams: whether column stream holds streams; if it holds hardware queues, which several streams share,
            nothing is clipped.

    Returns:
        (operations, sentences).
    """
    rows, same = _in_line(ops)
    if not len(rows):
        return ops, []
    start, end = ops.start[rows], ops.end[rows]
    said: list[str] = []
    of_graph = np.asarray((ops.graph_node >= 0) | ops.graph, bool)
    wrong = _covering(start, end, same, of_graph[rows])
    if streams and wrong.any():
        at = np.flatnonzero(wrong)
        longer = end[at] - start[at + 1]
        ends = ops.end.copy()
        ends[rows[at]] = start[at + 1]
        ops, end = replace(ops, end=ends), ends[rows]
        said.append(
            f"{len(at)} kernels have a duration that covers two or more whole later kernels of their stream, which "
            f"cannot be: they are counted up to the start of the next, {longer.sum() / 1e6:.4f} ms less in all."
        )
    over = np.where(same, end[:-1] - start[1:], 0)
    over = over[over > OVERLAP_NS]
    if len(over):
        said.append(
            f"{len(over)} kernels still run when the next kernel of their stream starts, {over.sum() / 1e6:.4f} ms in "
            f"all (the longest by {over.max() / 1e6:.4f} ms): kernel sums include it; programmatic dependent launch "
            "and branches of a graph do so, anything else is a wrong duration in the report."
        )
    return ops, said


def _in_line(ops: Operations) -> tuple[Ints, Bools]:
    """Return (kernels of known streams, by stream and time: int64 [n]; whether the next is of the same: bool [n-1])."""
    if not {"device", "stream"} <= set(ops.columns):
        return NONE, NONE.astype(bool)
    device, stream = ops.columns["device"], ops.columns["stream"]
    known = (ops.process != -1) | (ops.process == -1).all()
    rows = np.flatnonzero((ops.kind == 0) & (stream >= 0) & known)
    line = distinct(ops.process[rows], device[rows], stream[rows])[1] if len(rows) else NONE
    order = np.lexsort((ops.start[rows], line))
    return rows[order], np.asarray(line[order][1:] == line[order][:-1], bool)


def _covering(start: Ints, end: Ints, same: Bools, graph: Bools) -> Bools:
    """Return which kernels of ``_in_line`` cover the next two of their stream and last ``OFTEN`` times as long."""
    wrong = np.zeros(len(start), bool)
    if len(start) < 3:
        return wrong
    # The ends of covered kernels may be wrong, too: none counts for later than the start of the next.
    ended = np.append(np.where(same, np.minimum(end[:-1], start[1:]), end[:-1]), end[-1])
    longest = np.maximum(ended[1:-1] - start[1:-1], ended[2:] - start[2:])
    whole = (end[:-2] >= ended[1:-1]) & (end[:-2] >= ended[2:]) & (start[1:-1] > start[:-2])
    plain = ~(graph[:-2] | graph[1:-1] | graph[2:]) & same[:-1] & same[1:]
    wrong[:-2] = whole & plain & (end[:-2] - start[1:-1] > np.maximum(OFTEN * longest, OVERLAP_NS))
    return wrong
