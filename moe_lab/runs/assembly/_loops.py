"""Loops of a listing, by the flow of control: a jump to where all ways to it have passed."""

from collections.abc import Iterator, Sequence

from moe_lab.runs.assembly._listing import TENSOR, Instruction

MOST_WAITING = 6  # instructions of a loop that only asks whether a barrier has been reached


def inner_loop(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Return the loop with the most tensor instructions among those that hold no other loop, else the longest.

    Waiting for a barrier is no loop: a few instructions of which one waits. Empty where there is no loop.
    """
    loops = {head: body for head, body in _loops(instructions).items() if not _waits(instructions, body)}
    inner = [body for body in loops.values() if not any(other < body for other in loops.values())]
    bodies = [[instructions[at] for at in sorted(body)] for body in inner]
    return max(bodies, key=lambda body: (sum(one.unit in TENSOR for one in body), len(body)), default=[])


def _loops(instructions: Sequence[Instruction]) -> dict[int, set[int]]:
    """Return index of the first instruction -> indices of all, of every natural loop."""
    before: dict[int, list[int]] = {}
    for at in range(len(instructions)):
        for after in _next(instructions, at):
            before.setdefault(after, []).append(at)
    found: dict[int, set[int]] = {}
    for at, one in enumerate(instructions):
        body = None if one.target is None else _body(before, one.target, at)
        if one.target is not None and body:
            found[one.target] = found.get(one.target, set()) | body
    return found


def _next(instructions: Sequence[Instruction], at: int) -> Iterator[int]:
    one = instructions[at]
    if one.target is not None:
        yield one.target
    if not one.ends and at + 1 < len(instructions):
        yield at + 1


def _body(before: dict[int, list[int]], head: int, jump: int) -> set[int] | None:
    """Return what leads to a jump without passing its goal; None where the beginning does: that is no loop."""
    body, left = {head}, [jump]
    while left:
        at = left.pop()
        if at in body:
            continue
        if at == 0 or not before.get(at):
            return None
        body.add(at)
        left += before[at]
    return body


def _waits(instructions: Sequence[Instruction], body: set[int]) -> bool:
    units = {instructions[at].unit for at in body}
    return len(body) <= MOST_WAITING and "wait" in units and units <= {"wait", "branch", "other"}
