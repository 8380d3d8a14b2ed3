# SPDX-License-Identifier: Apache-2.0
"""Which tiles are worth compiling, in which order, and which stay: successive halving. Pure: the caller measures.

The space is pruned by the resources of a multiprocessor. The two GEMMs are searched separately, because a layer call
runs one after the other; they share block_m, so a block_m is judged by the sum of its best tiles for both. The tiles
that are left are combined and measured as whole calls.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, log2

from moe_lab.spec.architectures import SIDES, Card
from moe_lab.spec.configs import Sizes, text
from moe_lab.spec.configs.tile import AMD_OWN
from moe_lab.spec.problem import DTYPE_BYTES, MoEProblem, capacity

BLOCK_M = (16, 32, 64, 128)
BLOCK_N = (32, 64, 128, 256)
BLOCK_K = (32, 64, 128, 256)
WARPS = (4, 8)
STAGES = (2, 3, 4, 5)
# On AMD: two stages are one buffer, and options of the compiler, by vLLM's choice of values; see kernels.tile.
STAGES_AMD, WAVES, NONKDIM, KPACK = (2,), (0, 2, 4), (16, 32), (1, 2)
REGISTERS, FILE, OVERHEAD = 255, 65536, 24  # per thread; per multiprocessor; for indices and the loop, estimated
PARTS = ("w13", "w2")

Key = tuple[str, Sizes]  # one of ``PARTS``, and its tile
Pair = tuple[Sizes, Sizes]  # tiles of w13 and w2
# (tiles, repetitions, number of the round) -> microseconds of the tiles that could be measured.
Measure = Callable[[Sequence[Key], int, int], dict[Key, float]]

ROUNDS = (4, 12, 30)  # repetitions in each round
KEPT = 4  # one in this many stays after a round
LEAST = 3  # tiles that stay for each GEMM and block_m
HOPELESS = 1.3  # a block_m whose best tiles take this many times as long as the best of all is dropped


@dataclass(frozen=True)
class Limits:
    """What a thread block may use.

    Attributes:
        shared_memory_bytes: of the GPU.
        itemsize: bytes per element.
        tma: whether TMA loads the weights, which needs no address per thread.
        scaled: rows and columns of weights that share a scale, which a tile loads once per step; None = no scales.
        amd: the GPU, if it is one of AMD; None = NVIDIA.
    """

    shared_memory_bytes: int
    itemsize: int
    tma: bool = False
    scaled: tuple[int, int] | None = None
    amd: Card | None = None

    @property
    def warp_threads(self) -> int:
        """Threads of a warp, or wavefront."""
        return self.amd.warp_threads if self.amd else 32

    @property
    def registers(self) -> tuple[int, int]:
        """Most registers of a thread, and those of a multiprocessor."""
        if self.amd is None:
            return REGISTERS, FILE
        return self.amd.registers // SIDES // self.amd.warp_threads, self.amd.registers  # one wavefront may have all


def shared_memory_bytes(tile: Sizes, limits: Limits) -> int:
    """Return the bytes of the pipeline's buffers: the rows and weights of every stage, on AMD of one less."""
    block_m, block_n, block_k, _, _, stages = tile[:6]
    return (stages - bool(limits.amd)) * (block_m + block_n) * block_k * limits.itemsize


def registers(tile: Sizes, limits: Limits) -> int:
    """Return about how many registers a thread needs: accumulators, addresses of its 16-byte loads, and overhead."""
    block_m, block_n, block_k, _, warps, _ = tile[:6]
    threads = limits.warp_threads * warps
    loaded = block_m * block_k + (0 if limits.tma else block_n * block_k)
    # Accumulators are fp32, one register each; an address takes two.
    return block_m * block_n // threads + 2 * loaded * limits.itemsize // (16 * threads) + OVERHEAD


def fits(tile: Sizes, limits: Limits) -> bool:
    """Return whether the estimates are within the limits, and every thread has at least four results."""
    threads = limits.warp_threads * tile[4]
    need, (most, file) = registers(tile, limits), limits.registers
    return (
        shared_memory_bytes(tile, limits) <= limits.shared_memory_bytes
        and need <= most
        and need * threads <= file
        and tile[0] * tile[1] >= 4 * threads
    )


def space(gemm_n: int, gemm_k: int, block_m: int, limits: Limits) -> Iterator[Sizes]:
    """Yield the tiles that fit; none is wider or deeper than the GEMM, rounded up to a power of two."""
    groups = (1, 8, 32) if block_m >= 64 else (1, 8)  # with few rows an expert has few row tiles to group
    widest, deepest = (max(32, 1 << (size - 1).bit_length()) for size in (gemm_n, gemm_k))
    stages = STAGES_AMD if limits.amd else STAGES
    for n, k, group, warps, stage, more in product(BLOCK_N, BLOCK_K, groups, WARPS, stages, _options(limits.amd)):
        tile = block_m, n, k, group, warps, stage, *more
        if more and more[1] > min(block_m, n):  # a matrix instruction is no larger than the tile
            continue
        # One scale per tile and step: so no wider than a block of weights, and just as deep.
        if limits.scaled and (n > limits.scaled[0] or k != limits.scaled[1]):
            continue
        if n <= widest and k <= deepest and fits(tile, limits):
            yield tile


def _options(amd: Card | None) -> Iterator[tuple[int, ...]]:
    """Yield the values of ``AMD_FIELDS`` to try, or nothing to add to a tile."""
    if amd is None:
        return iter([()])
    return product(WAVES, NONKDIM, KPACK[:1] if amd.arch == "gfx950" else KPACK)  # where Triton takes no other kpack


def distance(a: Sizes, b: Sizes) -> float:
    """Return how many doublings of a size, or pipeline stages, two tiles are apart.

    The group counts a third, and so does each option for AMD.
    """
    weights = (1, 1, 1, 1 / 3, 1)
    options = sum(x != y for x, y in zip(a[6:] or AMD_OWN, b[6:] or AMD_OWN, strict=True)) / 3
    return sum(w * abs(log2(x / y)) for w, x, y in zip(weights, a, b, strict=False)) + abs(a[5] - b[5]) + options


def order(tiles: Iterable[Sizes], centre: Sizes) -> list[Sizes]:
    """Return the tiles in the order to try them: the centre, then alternately the next nearest and a scattered one."""
    # Scattered by a checksum, not at random: a resumed tuning run must try the same tiles.
    near = sorted(tiles, key=lambda tile: (distance(tile, centre), tile))
    far = sorted(near, key=lambda tile: zlib.crc32(text(tile).encode()))
    turns = (tile for pair in zip(near, far, strict=True) for tile in pair)
    return list(dict.fromkeys([centre, *turns]))


def rows(problem: MoEProblem) -> list[int]:
    """Return the plausible values of block_m: the one nearest to an expert's mean rows, and its neighbours."""
    mean = max(1.0, problem.rows_useful / problem.E)
    nearest = min(range(len(BLOCK_M)), key=lambda i: abs(log2(BLOCK_M[i] / mean)))
    return list(BLOCK_M[max(0, nearest - 1) : nearest + 2])


def gemm(problem: MoEProblem, part: str) -> tuple[int, int]:
    """Return gemm_n and gemm_k of ``w13`` or ``w2``."""
    return (problem.rows13, problem.K) if part == "w13" else (problem.K, problem.N)


def plan(
    problem: MoEProblem, centres: dict[int, Sizes], limits: Limits, most: int | None
) -> dict[tuple[str, int], list[Sizes]]:
    """Return the tiles to try: (part, block_m) -> at most ``most`` of them (None = all), the most promising first.

    ``centres``: block_m -> the backend's own tile with that many rows.
    """
    return {
        (part, block_m): order(space(*gemm(problem, part), block_m, limits), _on(limits, centres[block_m]))[:most]
        for part in PARTS
        for block_m in rows(problem)
    }


def _on(limits: Limits, tile: Sizes) -> Sizes:
    return (*tile[:5], *STAGES_AMD, *tile[6:]) if limits.amd else tile


def small(problem: MoEProblem) -> MoEProblem:
    """Return a small problem with the same kernels as ``problem``: the same sizes, but few tokens and experts.

    Triton compiles different kernels for an argument that is 1, a multiple of 16, or neither: the number of pairs keeps
    its kind.
    """

    def kind(pairs: int) -> tuple[bool, bool]:
        return pairs == 1, pairs % 16 == 0

    tokens = next(M for M in range(1, 33) if M == 32 or kind(M * problem.topk) == kind(problem.rows_useful))
    return replace(problem, M=tokens, E=problem.topk)


def bytes_held(problem: MoEProblem) -> int:
    """Return about how many bytes the results of one whole call take, with rows padded to 128 in the worst case."""
    padded = capacity(problem.rows_useful, BLOCK_M[-1], problem.E)
    return padded * (3 * problem.N + problem.K) * DTYPE_BYTES[problem.dtype] + problem.M * problem.K * 8


def halve(candidates: Sequence[Key], measure: Measure, rounds: Sequence[int] = ROUNDS) -> dict[Key, float]:
    """Return the tiles that are left after the last round, with their times; ``rounds``: repetitions in each."""
    alive, scores = list(candidates), {}
    for number, repetitions in enumerate(rounds):
        found = measure(alive, repetitions, number)
        if not found:  # the time is up: the round before decides
            break
        scores = found
        alive = survivors(found)
    return {key: scores[key] for key in alive if key in scores}


def survivors(scores: dict[Key, float]) -> list[Key]:
    """Return the tiles that stay: the fastest for each GEMM and block_m, unless that block_m is hopeless."""
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
    """Return the pairs to measure as whole calls: the fastest sums, and the fastest with one tile for both GEMMs."""
    best = {part: sorted((k for k in scores if k[0] == part), key=lambda k: scores[k]) for part in PARTS}
    pairs = [(a[1], b[1]) for a, b in product(best["w13"], best["w2"]) if a[1][0] == b[1][0]]

    def total(pair: Pair) -> float:
        return scores["w13", pair[0]] + scores["w2", pair[1]]

    quick = sorted(pairs, key=total)
    # If no pair has one tile for both: either tile of the fastest pair, used for both GEMMs.
    same = [pair for pair in quick if pair[0] == pair[1]][:2] or [(tile, tile) for p in quick[:1] for tile in p]
    return list(dict.fromkeys([*quick[:most], *same]))


def between(tokens: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """Return (M, tuned M below, tuned M above) for Ms halfway between tuned ones, spread over all gaps."""
    gaps = []
    for low, high in zip(sorted(tokens), sorted(tokens)[1:], strict=False):
        # The geometric mean is farthest from both by ratio; even, so that it has the kernels of most Ms: ``small``.
        middle = 2 * round((low * high) ** 0.5 / 2)
        if low < middle < high:
            gaps.append((middle, low, high))
    if most >= len(gaps) or most < 1:
        return gaps if most else []
    return [gaps[round(i * (len(gaps) - 1) / max(1, most - 1))] for i in range(most)]
