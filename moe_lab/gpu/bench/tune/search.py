"""Successive halving: few repetitions for all, more for those that are left. Pure: measuring is a function it is given.

Both GEMMs are searched by themselves, because a layer call runs one after the other; they share block_m, so a block_m
is judged by the sum of its best two. What is left is combined and measured as whole calls.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil

from moe_lab.gpu.bench.tune.candidates import PARTS
from moe_lab.spec.configs import Sizes

Key = tuple[str, Sizes]  # of ``PARTS``, and its tile
Pair = tuple[Sizes, Sizes]
# Measures tiles with so many repetitions, in round number N; returns the microseconds of those that could be measured.
Measure = Callable[[Sequence[Key], int, int], dict[Key, float]]

ROUNDS = (4, 12, 30)  # repetitions of each
KEPT = 4  # one of so many stays after a round
LEAST = 3  # stay for each GEMM and block_m
HOPELESS = 1.3  # a block_m whose best two take so many times the best is dropped


def halve(candidates: Sequence[Key], measure: Measure, rounds: Sequence[int] = ROUNDS) -> dict[Key, float]:
    """Return the tiles that are left after the last round, with their times.

    Args:
        candidates: what to measure.
        measure: see ``Measure``.
        rounds: repetitions of each round.
    """
    alive, scores = list(candidates), {}
    for number, repetitions in enumerate(rounds):
        found = measure(alive, repetitions, number)
        if not found:
            break
        scores = found
        alive = survivors(found)
    return {key: scores[key] for key in alive if key in scores}


def survivors(scores: dict[Key, float]) -> list[Key]:
    """Return who stays: the quickest of each GEMM and block_m, if that block_m is not hopeless."""
    groups: dict[tuple[str, int], list[Key]] = {}
    for key in sorted(scores, key=lambda key: scores[key]):
        groups.setdefault((key[0], key[1][0]), []).append(key)
    sums = {
        block_m: sum(scores[groups[part, block_m][0]] for part in PARTS)
        for block_m in {rows for _, rows in groups}
        if all((part, block_m) in groups for part in PARTS)
    }
    hoped = {block_m for block_m, us in sums.items() if us <= HOPELESS * min(sums.values())}
    return [
        key
        for (_, block_m), keys in groups.items()
        if block_m in hoped or not sums
        for key in keys[: max(LEAST, ceil(len(keys) / KEPT))]
    ]


def finalists(scores: dict[Key, float], most: int = 6) -> list[Pair]:
    """Return the pairs that are measured as whole calls: the quickest sums, and the quickest of one tile for both.

    Args:
        scores: what ``halve`` returned.
        most: pairs of two tiles.
    """
    best = {part: sorted((k for k in scores if k[0] == part), key=lambda k: scores[k]) for part in PARTS}
    pairs = [(a[1], b[1]) for a, b in product(best["w13"], best["w2"]) if a[1][0] == b[1][0]]

    def total(pair: Pair) -> float:
        return scores["w13", pair[0]] + scores["w2", pair[1]]

    quick = sorted(pairs, key=total)
    same = [pair for pair in quick if pair[0] == pair[1]][:2] or one_for_both(quick)
    return list(dict.fromkeys([*quick[:most], *same]))


def one_for_both(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the tile of w13 and that of w2 of the quickest pair, each for both GEMMs."""
    return [(tile, tile) for pair in pairs[:1] for tile in pair]


def between(tokens: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """Return (M, tuned M below, tuned M above) of Ms in the middle between tuned ones, spread over all gaps.

    They are even, where there is room: see ``candidates.small``.
    """
    gaps = []
    for low, high in zip(sorted(tokens), sorted(tokens)[1:], strict=False):
        middle = 2 * round((low * high) ** 0.5 / 2)
        if low < middle < high:
            gaps.append((middle, low, high))
    if most >= len(gaps) or most < 1:
        return gaps if most else []
    return [gaps[round(i * (len(gaps) - 1) / max(1, most - 1))] for i in range(most)]
