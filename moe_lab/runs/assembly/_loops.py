# SPDX-License-Identifier: Apache-2.0
"""Natural loops of a listing: jumps back to an instruction through which every path to the jump has passed."""

from collections.abc import Iterator, Sequence

from moe_lab.runs.assembly._listing import TENSOR, Instruction

MOST_WAITING = 6  # most instructions of a loop that only polls a barrier


def inner_loop(instructions: Sequence[Instruction]) -> list[int]:
    """Return the indices of the innermost loop with the most tensor instructions, the longest of several.

    Loops without any count only if no loop has some, also as what makes another not the innermost. Empty if there is no
    loop.
    A few instructions that only wait for a barrier do not count as a loop.
    """
    loops = [body for body in _loops(instructions).values() if not _waits(instructions, body)]
    tensor = {at for at, one in enumerate(instructions) if one.unit in TENSOR}
    loops = [body for body in loops if body & tensor] or loops
    inner = [body for body in loops if not any(other < body for other in loops)]
    longest: set[int] = max(inner, key=lambda body: (len(body & tensor), len(body)), default=set())
    return sorted(longest)


def _loops(instructions: Sequence[Instruction]) -> dict[int, set[int]]:
    """Return every natural loop: index of its first instruction -> indices of all of its instructions."""
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
    """Return all instructions that lead to a jump without passing its target; None if that is not a loop."""
    body, left = {head}, [jump]
    while left:
        at = left.pop()
        if at in body:
            continue
        # The start of the kernel reaches the jump without passing the target.
        if at == 0 or not before.get(at):
            return None
        body.add(at)
        left += before[at]
    return body


def _waits(instructions: Sequence[Instruction], body: set[int]) -> bool:
    units = {instructions[at].unit for at in body}
    return len(body) <= MOST_WAITING and "wait" in units and units <= {"wait", "branch", "other"}
