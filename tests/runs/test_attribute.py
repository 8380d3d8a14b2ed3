"""Nesting, containment and matching, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_lab.runs.attribution import attribute, keys, replay

BIG = (1 << 56) + 1  # thread ids beyond 2**53, which a float cannot tell apart

spans = st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12), st.booleans())


def ints(values):
    return np.array(list(values), np.int64)


def forest_of(rows):
    """Sort rows of (thread, start, length, free) and nest them."""
    thread, start = ints(BIG + r[0] for r in rows), ints(r[1] for r in rows)
    end, free = start + ints(r[2] for r in rows), np.array([r[3] for r in rows], bool)
    order = attribute.order(thread, start, end)
    return attribute.nest(thread[order], start[order], end[order], free[order])


def members(forest, thread, start, end):
    """Return, for every range, the calls that the attribution puts in it: by parents, or by pairs."""
    found = {i: set() for i in range(len(forest.start))}
    for call, node in enumerate(attribute.innermost(forest, thread, start, end).tolist()):
        while node >= 0:
            found[node].add(call)
            node = int(forest.parent[node])
    for call, node in zip(*attribute.crossing_pairs(forest, thread, start, end), strict=True):
        assert call not in found[int(node)]
        found[int(node)].add(int(call))
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.lists(spans, max_size=14),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 6)), max_size=12),
)
def test_every_range_holds_exactly_the_calls_inside_it_on_its_thread(rows, calls):
    forest = forest_of(rows)
    thread, start = ints(BIG + c[0] for c in calls), ints(c[1] for c in calls)
    end = start + ints(c[2] for c in calls)
    for row, found in members(forest, thread, start, end).items():
        inside = (thread == forest.thread[row]) & (start >= forest.start[row]) & (end <= forest.end[row])
        assert found == set(np.flatnonzero(inside).tolist())


@settings(max_examples=300, deadline=None)
@given(st.lists(spans, max_size=14))
def test_a_parent_contains_its_children_and_only_crossing_ranges_stay_outside(rows):
    forest = forest_of(rows)
    for row, parent in enumerate(forest.parent.tolist()):
        if parent >= 0:
            assert parent < row
            assert forest.thread[parent] == forest.thread[row]
            assert forest.start[parent] <= forest.start[row] <= forest.end[row] <= forest.end[parent]
            assert forest.depth[row] == forest.depth[parent] + 1
        else:
            assert forest.depth[row] == 0
        if forest.crossing[row]:
            crossed = (
                (forest.thread == forest.thread[row])
                & (forest.start < forest.end[row])
                & (forest.end > forest.start[row])
            )
            contained = (forest.start >= forest.start[row]) & (forest.end <= forest.end[row])
            contains = (forest.start <= forest.start[row]) & (forest.end >= forest.end[row])
            assert (crossed & ~contained & ~contains).any()


@pytest.mark.parametrize(
    ("rows", "out"),
    [
        # two start/end ranges that overlap: the later one leaves; the push/pop range stays
        ([(0, 0, 10, True), (0, 5, 10, True), (0, 6, 2, False)], [False, True, False]),
        # a start/end range crosses a push/pop range: it leaves although it began first
        ([(0, 0, 10, True), (0, 5, 10, False)], [True, False]),
        # nothing crosses: start/end ranges nest like others
        ([(0, 0, 20, True), (0, 5, 10, False), (0, 6, 2, True)], [False, False, False]),
        # two push/pop ranges of different domains cross: the later one leaves
        ([(0, 0, 10, False), (0, 5, 10, False)], [False, True]),
        # the same, but on two threads: nothing crosses
        ([(0, 0, 10, False), (1, 5, 10, False)], [False, False]),
    ],
    ids=["start-end", "start-end-and-push", "nested", "domains", "threads"],
)
def test_crossing_start_end_ranges_leave_the_tree_first(rows, out):
    assert forest_of(rows).crossing.tolist() == out


def test_ranges_that_only_touch_are_siblings():
    forest = forest_of([(0, 0, 10, False), (0, 10, 10, False), (0, 10, 0, False)])
    assert forest.parent.tolist() == [-1, -1, 1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1, 0, 1, 2, 3, 10**12])), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, 3, 7, 10**12])), max_size=12),
)
def test_match_finds_the_first_call_of_the_process_with_the_id(operations, calls):
    process, correlation = ints(BIG + o[0] for o in operations), ints(o[1] for o in operations)
    call_process, call_correlation = ints(BIG + c[0] for c in calls), ints(c[1] for c in calls)
    found = keys.match(process, correlation, call_process, call_correlation)
    expected = [calls.index(o) if o[1] >= 0 and o in calls else -1 for o in operations]
    assert found.tolist() == expected


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-3, 3), st.integers(0, 2**60)), max_size=20))
def test_distinct_numbers_rows_as_sorting_them_does(rows):
    first, code = keys.distinct(*(ints(column) for column in (zip(*rows, strict=True) if rows else ([], [], []))))
    values = sorted(set(rows))
    assert [rows[i] for i in first] == values
    assert code.tolist() == [values.index(r) for r in rows]


def test_creations_follow_clones_to_the_creation_within_the_process():
    # process 1: node 10 created at 5, cloned to 20 (graph), that to 30 (executable); process 2 has its own node 30
    events = replay.NodeEvents(
        process=ints([1, 1, 1, 2]),
        node=ints([10, 20, 30, 30]),
        original=ints([-1, 10, 20, -1]),
        start=ints([5, 6, 7, 9]),
        thread=ints([1, 1, 1, 2]),
    )
    found = replay.creations(ints([1, 2, 1, 1]), ints([30, 30, 10, 99]), ints([50, 50, 50, 50]), events)
    assert found.tolist() == [0, 3, 0, -1]


def test_creations_take_the_last_event_before_the_launch():
    # node 30 is cloned from 10 at time 7 and, the graph having been made anew, from 11 at time 100
    events = replay.NodeEvents(
        process=ints([1, 1, 1, 1]),
        node=ints([10, 30, 11, 30]),
        original=ints([-1, 10, -1, 11]),
        start=ints([5, 7, 90, 100]),
        thread=ints([1] * 4),
    )
    found = replay.creations(ints([1, 1, 1]), ints([30, 30, 30]), ints([50, 150, 6]), events)
    assert found.tolist() == [0, 2, 0]


def test_creations_end_when_clones_go_round_in_circles():
    events = replay.NodeEvents(
        process=ints([1, 1]), node=ints([1, 2]), original=ints([2, 1]), start=ints([1, 1]), thread=ints([1, 1])
    )
    assert replay.creations(ints([1]), ints([1]), ints([5]), events).tolist() == [-1]


def test_combine_drops_the_common_beginning_and_gives_one_instance_a_replay():
    # ranges: 0 root, 1 root/mlp (captured); 2 root (replayed). Names: root = 0, mlp = 1.
    parent, depth, name = ints([-1, 0, -1]), ints([0, 1, 0]), ints([0, 1, 0])
    made = replay.combine(
        parent, depth, name, launch=ints([2, 2, 2, -1]), capture=ints([1, 1, 0, 1]), replay=ints([0, 1, 0, 2])
    )
    assert made.range_id[2] == 2  # captured in root, replayed in root: nothing to add
    below = made.range_id[:2] - 3
    assert below[0] != below[1]
    assert made.parent[below].tolist() == [2, 2]
    assert made.source[below].tolist() == [1, 1]
    assert made.depth[below].tolist() == [1, 1]
    alone = made.range_id[3] - 3  # replayed outside of any range: the whole captured path
    assert made.source[alone] == 1
    assert made.source[made.parent[alone] - 3] == 0
    assert made.parent[made.parent[alone] - 3] == -1
