# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: the range in which a replayed kernel was captured, and the ranges of each replay.

A replayed kernel carries the node of the executable graph. Profilers record where each node came from: it was created
(while the graph was captured, under the ranges open at that moment) or cloned from another node (instantiation, child
graphs). Following clones back to the creation gives the stage; the call that launched the graph gives the context.
"""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.keys import Bools, Ints, distinct

CLONES = 64  # a longer chain of clones can only be a damaged report whose chain goes round in circles
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
    """Return, for each operation, the row of ``events`` that created its node, -1 where the trace does not have it.

    Args:
        process: int64 [m], process id of the operations.
        node: int64 [m], node of the executable graph.
        when: int64 [m], when the graph was launched, ns: of several events of a node, the last one before that counts.
        events: the node events.
    """
    found = np.full(len(node), -1, np.int64)
    events_n = len(events.node)
    if not events_n or not len(node):
        return found
    # New nodes, originals and the nodes of operations share one numbering, so that from here on a node is an index.
    owners = np.concatenate([events.process, events.process, process])
    _, code = distinct(owners, np.concatenate([events.node, events.original, node]))
    own, original, slot = np.split(code, [events_n, 2 * events_n])
    rows = np.lexsort((events.start, own))  # events of one node lie together, in order of time
    first, last = np.full(code.max() + 1, -1, np.int64), np.full(code.max() + 1, -1, np.int64)
    first[own[rows[::-1]]] = np.arange(events_n)[::-1]
    last[own[rows]] = np.arange(events_n)
    # All operations climb their chain of clones together, one step per round. There are as many rounds as the longest
    # chain has steps, and chains are short (capture, instantiation, a child graph).
    todo, time = np.arange(len(node)), when
    for _ in range(min(events_n, CLONES)):
        known = last[slot] >= 0
        todo, slot, time = todo[known], slot[known], time[known]
        if not len(todo):
            break
        # A node id is reused once its graph is destroyed: the event that counts is the last one before the launch (or
        # before the clone was made), not the last one of the report.
        at = last[slot]
        # All that are too late step back by one event per round; ids are seldom reused, so there are few rounds.
        while (late := (events.start[rows[at]] > time) & (at > first[slot])).any():
            at = at - late
        # Where even the first event is too late, it is taken all the same: the node must have been made, so it is the
        # event's time that is doubtful.
        row = rows[at]
        made = events.original[row] < 0
        found[todo[made]] = row[made]
        todo, slot, time = todo[~made], original[row[~made]], events.start[row[~made]]
    return found


@dataclass(frozen=True)
class Replayed:
    """Ranges made for replays; their numbers follow those of the real ranges, parents before children.

    Attributes:
        range_id: int64 [m], range of each operation: a made one, or the launch range where that has the whole path.
        parent: int64 [k], parent of each made range (real, made, or -1).
        source: int64 [k], the captured range it stands for.
        depth: int64 [k].
    """

    range_id: Ints
    parent: Ints
    source: Ints
    depth: Ints


def combine(parent: Ints, depth: Ints, name: Ints, launch: Ints, capture: Ints, replay: Ints) -> Replayed:
    """Put the captured ranges below the range around each replay, one instance per replay.

    Names that both paths begin with are not repeated: a layer captured under ``root`` and replayed under ``root`` is
    ``root/layer``.

    Args:
        parent: int64 [n], of the real ranges.
        depth: int64 [n], of the real ranges.
        name: int64 [n], a number for each distinct name.
        launch: int64 [m], innermost range around the launch of each operation, -1 = none.
        capture: int64 [m], innermost range at the capture of its node, >= 0.
        replay: int64 [m], a number for each replay.
    """
    # A replay has far fewer stages than kernels: everything below works on one row per (replay, stage).
    first, inverse = distinct(launch, replay, capture)
    top, leaf = launch[first], capture[first]
    inner, outer = _chains(parent, depth, leaf), _chains(parent, depth, top)
    width = min(inner.shape[1], outer.shape[1])
    # cumprod is 0 from the first name that differs on: `skip` is the number of names that both paths begin with.
    both = (inner[:, :width] >= 0) & (outer[:, :width] >= 0)
    same = both & (name[inner[:, :width]] == name[outer[:, :width]])
    skip = np.cumprod(same, axis=1).sum(axis=1)
    none = np.zeros(0, np.int64)
    parents, sources, depths = [none], [none], [none]
    total = len(parent)
    made, level_of = top.copy(), np.where(top >= 0, depth[top], -1)
    # Level by level, so that a stage of one replay is made once and shared by its kernels. `context` numbers the made
    # parents (at first the replays): the same captured range below two replays gives two instances.
    context = distinct(top, replay[first])[1]
    for level in range(inner.shape[1]):
        rows = np.flatnonzero(skip + level <= depth[leaf])
        if not len(rows):
            break
        source = inner[rows, skip[rows] + level]
        at, which = distinct(context[rows], source)  # a row for each range to make; the range of each row
        parents.append(made[rows[at]])
        sources.append(source[at])
        depths.append(level_of[rows[at]] + 1 + level)
        made[rows] = total + which  # one table holds the real ranges and then these
        context[rows] = which
        total += len(at)
    return Replayed(made[inverse], np.concatenate(parents), np.concatenate(sources), np.concatenate(depths))


def _chains(parent: Ints, depth: Ints, leaf: Ints) -> Ints:
    """Return the ranges from the outermost down to each leaf, then -1: int64 [m, deepest + 1]."""
    known: Bools = leaf >= 0
    deepest = int(depth[leaf[known]].max(initial=-1)) if known.any() else -1
    chains = np.full((len(leaf), max(deepest + 1, 1)), -1, np.int64)
    rows, node = np.flatnonzero(known), leaf[known]
    while len(rows):  # all leaves climb together; the depth of a range is its place in the chain
        chains[rows, depth[node]] = node
        node = parent[node]
        rows, node = rows[node >= 0], node[node >= 0]
    return chains
