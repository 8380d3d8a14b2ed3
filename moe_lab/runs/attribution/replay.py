"""CUDA graphs: the range in which a replayed kernel was captured, and the ranges of one replay.

A replayed kernel carries the node of the executable graph. Profilers record where each node came from: it was created
(while the graph was captured, under the ranges open at that moment) or cloned from another node (instantiation, child
graphs). Following clones back to the creation gives the stage; the call that launched the graph gives the context.
"""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.keys import Bools, Ints, distinct

CLONES = 64  # a node cloned more often than this would be a damaged report that goes round in circles
LOST = (
    "{lost} of {graph} operations of CUDA graphs were captured before tracing began: they are attributed to the range "
    "around the replay only; start tracing before the graph is captured to get their stages."
)
OUTSIDE = (
    "{outside} of {graph} operations of CUDA graphs were captured in no range of the report: they are attributed to "
    "the range around the replay only; open the ranges of the stages (and trace NVTX) while the graph is captured."
)


@dataclass(frozen=True)
class NodeEvents:
    """Creations and clones of graph nodes.

    Attributes:
        process: int64 [n], process id.
        node: int64 [n], id of the new node, unique within a process.
        original: int64 [n], the node it was cloned from; -1 = created.
        start: int64 [n], when, ns.
        thread: int64 [n], on which thread.
    """

    process: Ints
    node: Ints
    original: Ints
    start: Ints
    thread: Ints


def creations(process: Ints, node: Ints, when: Ints, events: NodeEvents) -> Ints:
    """Return, for each operation, the row of ``events`` that created its node, -1 where the trace lacks it.

    Args:
        process: int64 [m], process id of the operations.
        node: int64 [m], node of the executable graph.
        when: int64 [m], when the graph was launched, ns: of several events of one node the last one before counts.
        events: the node events.
    """
    found = np.full(len(node), -1, np.int64)
    events_n = len(events.node)
    if not events_n or not len(node):
        return found
    # New nodes, originals and the nodes of operations in one numbering, so that a node is an index from here on.
    owners = np.concatenate([events.process, events.process, process])
    _, code = distinct(owners, np.concatenate([events.node, events.original, node]))
    own, original, slot = np.split(code, [events_n, 2 * events_n])
    rows = np.lexsort((events.start, own))  # events of one node lie together, in order of time
    first, last = np.full(code.max() + 1, -1, np.int64), np.full(code.max() + 1, -1, np.int64)
    first[own[rows[::-1]]] = np.arange(events_n)[::-1]
    last[own[rows]] = np.arange(events_n)
    # All operations take one step up their chain of clones at a time: as many rounds as the longest chain is long, and
    # a chain is short (capture, instantiation, a child graph), however many operations there are.
    todo, time = np.arange(len(node)), when
    for _ in range(min(events_n, CLONES)):
        known = last[slot] >= 0
        todo, slot, time = todo[known], slot[known], time[known]
        if not len(todo):
            break
        # A node id is used again after its graph is gone: the event that counts is the last one before the launch
        # (or before the clone was made), not the last one of the report.
        at = last[slot]
        # A step back for all at a time: as many rounds as an id was used again, which is seldom.
        while (late := (events.start[rows[at]] > time) & (at > first[slot])).any():
            at = at - late
        # Where even the first event is later, it is taken: a node must have been made, so its time is the doubtful one.
        row = rows[at]
        made = events.original[row] < 0
        found[todo[made]] = row[made]
        todo, slot, time = todo[~made], original[row[~made]], events.start[row[~made]]
    return found


@dataclass(frozen=True)
class Replayed:
    """Ranges made for replays, numbered on from the real ones, parents before children.

    Attributes:
        range_id: int64 [m], range of each operation: a made one, or the launch range where nothing is left to add.
        parent: int64 [k], parent of each made range (real, made, or -1).
        source: int64 [k], the captured range it stands for.
        depth: int64 [k].
    """

    range_id: Ints
    parent: Ints
    source: Ints
    depth: Ints


def combine(parent: Ints, depth: Ints, name: Ints, launch: Ints, capture: Ints, replay: Ints) -> Replayed:
    """Put the captured ranges below the range around each replay, one instance a replay.

    Where the two paths begin with the same names, those are not repeated: a layer captured under ``root`` and replayed
    under ``root`` is ``root/layer``.

    Args:
        parent: int64 [n], of the real ranges.
        depth: int64 [n], of the real ranges.
        name: int64 [n], a number for each distinct name.
        launch: int64 [m], innermost range around the launch of each operation, -1 = none.
        capture: int64 [m], innermost range at the capture of its node, >= 0.
        replay: int64 [m], a number for each replay.
    """
    # A replay has far fewer different stages than kernels: everything below works on one row a (replay, stage).
    first, inverse = distinct(launch, replay, capture)
    top, leaf = launch[first], capture[first]
    inner, outer = _chains(parent, depth, leaf), _chains(parent, depth, top)
    width = min(inner.shape[1], outer.shape[1])
    # cumprod stops at the first name that differs: `skip` counts how many names the two paths begin with in common.
    both = (inner[:, :width] >= 0) & (outer[:, :width] >= 0)
    same = both & (name[inner[:, :width]] == name[outer[:, :width]])
    skip = np.cumprod(same, axis=1).sum(axis=1)
    parents: list[Ints] = []
    sources: list[Ints] = []
    depths: list[Ints] = []
    total = len(parent)
    made, level_of = top.copy(), np.where(top >= 0, depth[top], -1)
    # Level by level, so that a stage of one replay is made once and its kernels share it; `context` is the made parent
    # (at first the replay), and the same captured range below two replays gives two instances.
    context = distinct(top, replay[first])[1]
    for level in range(inner.shape[1]):
        rows = np.flatnonzero(skip + level <= depth[leaf])
        if not len(rows):
            break
        source = inner[rows, skip[rows] + level]
        at, which = distinct(context[rows], source)  # `at`: the rows that make a range, `which`: the one of each row
        parents.append(made[rows[at]])
        sources.append(source[at])
        depths.append(level_of[rows[at]] + 1 + level)
        made[rows] = total + which  # numbered on from the real ranges, as one table holds both
        context[rows] = which
        total += len(at)
    empty = [np.zeros(0, np.int64)]
    return Replayed(
        made[inverse],
        np.concatenate(parents or empty),
        np.concatenate(sources or empty),
        np.concatenate(depths or empty),
    )


def _chains(parent: Ints, depth: Ints, leaf: Ints) -> Ints:
    """Return int64 [m, deepest + 1]: the ranges from the outermost down to each leaf, then -1."""
    known: Bools = leaf >= 0
    deepest = int(depth[leaf[known]].max(initial=-1)) if known.any() else -1
    chains = np.full((len(leaf), max(deepest + 1, 1)), -1, np.int64)
    rows, node = np.flatnonzero(known), leaf[known]
    while len(rows):  # one step up for all leaves at a time; a range's depth is its place in the chain
        chains[rows, depth[node]] = node
        node = parent[node]
        rows, node = rows[node >= 0], node[node >= 0]
    return chains
