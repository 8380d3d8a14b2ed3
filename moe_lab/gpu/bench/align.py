# SPDX-License-Identifier: Apache-2.0
"""The align benchmark: times one input and returns rows; prints nothing.

Besides the rules of ``clock``: the experts of a token are distinct; buffers are allocated before the timed call, and a
separate row includes allocation; every variant's result is compared with the reference before it is timed. An algorithm
that fails becomes rows with an error instead of times.
"""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment, workspace
from moe_lab.gpu.bench.clock import interleave, no_stderr, quantiles_us, ready
from moe_lab.gpu.bench.stages import trace
from moe_lab.gpu.kernels.nothing import launch_nothing
from moe_lab.gpu.routing import parse_spec, synthetic
from moe_lab.spec import plugins
from moe_lab.spec.bench_options import ALIGN_MODES
from moe_lab.spec.errors import UserError

# Empty kernels, timed like the algorithms: launches, and whether each may begin before the one before it ends.
FLOORS = {"(empty)": (1, False), "(2 empty)": (2, False), "(2 empty, early)": (2, True)}
# The fields that together identify a row.
KEY = ("tokens", "E", "topk", "block_m", "routing", "seed", "algorithm", "mode")


@dataclass(frozen=True)
class AlignCase:
    """One input of the align benchmark.

    Attributes:
        tokens: M.
        E: experts.
        topk: experts per token.
        block_m: rows per tile.
        routing: a spec of ``moe_lab.gpu.routing.synthetic``.
        seed: of the routing.
    """

    tokens: int
    E: int
    topk: int
    block_m: int = 64
    routing: str = "uniform"
    seed: int = 0


def align_rows(
    case: AlignCase,
    algorithms: Sequence[str],
    *,
    repetitions: int = 50,
    modes: Sequence[str] = ALIGN_MODES,
    device: torch.device | str = "cuda",
    kernels: bool = True,
    most_topk: int = 0,
) -> list[dict[str, Any]]:
    """Time align algorithms on one input.

    Args:
        case: the input.
        algorithms: align plugins; those that cannot take so many pairs are left out.
        repetitions: timed calls of each variant.
        modes: of ``ALIGN_MODES``; ``graph`` replays a CUDA graph of one call.
        device: the GPU.
        kernels: whether to profile the kernels of a call too, which takes about 0.1 s per case.
        most_topk: the largest topk of any case with this M and E, so that their ids are drawn once.

    Returns:
        One row per algorithm and mode: the case's fields, algorithm, mode, repetitions, median_us, p20_us, p80_us,
        launches (GPU operations per call; None without ``kernels``), rows_useful, rows_padded, padding_waste_pct,
        minimum_bytes, deterministic, kernels_warm_us (each operation of a call and its time in an eager call with warm
        caches), error.
        The algorithms of ``FLOORS`` are empty kernels, timed in the same way.
        An algorithm that fails, or whose result differs from the reference, has a one-line error and no times.
    """
    device = torch.device(device)
    ids = _ids(case, max(most_topk, case.topk), device)
    taken = [a for a in algorithms if ids.numel() <= _info(a).get("most_pairs", ids.numel())]
    expected = canonical(plugins.load("align", "torch_ref").align(ids, case.block_m, case.E), ids, case.block_m)
    common = asdict(case) | {
        "rows_useful": ids.numel(),
        "rows_padded": expected[0],
        "padding_waste_pct": round(100 * (expected[0] / max(1, ids.numel()) - 1), 3),
        # Ids in; rows, the experts of tiles and num_tokens_post_padded out: each a 32-bit number.
        "minimum_bytes": 4 * (ids.numel() + expected[0] + expected[0] // case.block_m + 1),
    }
    rows: list[dict[str, Any]] = []
    steps = {(name, mode): _floor(name, mode, device) for name, mode in product(FLOORS, modes)}
    _settle()
    for name in taken:
        try:
            with no_stderr():
                steps |= _checked_steps(name, case, ids, expected, modes)
        except Exception as error:  # whatever it is, the others are still measured
            rows += [common | _row(name, mode, repetitions, error=one_line(error)) for mode in modes]
    good = [name for name in taken if (name, modes[0]) in steps]
    traced = _operations({name: _calls(name, ids, case)[0] for name in good}, ids) if kernels else {}
    for (name, mode), times in interleave(steps, repetitions, device)[0].items():
        found = traced.get(name)
        launches = FLOORS[name][0] if name in FLOORS else len(found) if found else None
        row = _row(name, mode, repetitions, times) | {"launches": launches}
        rows.append(common | row | {"kernels_warm_us": found if mode == modes[0] else None})
    return rows


def _operations(calls: dict[str, Callable[[], object]], separator: Tensor) -> dict[str, list[tuple[str, float]] | None]:
    """Return the GPU operations (name, microseconds) of one warm call of each; None without a working profiler."""
    marked = {name: lambda mark, call=call: call() for name, call in calls.items()}
    found = trace(marked, separator, lambda: None, repeats=1)
    return {name: [(op.partition("|")[2], us) for op, us in ops] if ops else None for name, ops in found.items()}


def _ids(case: AlignCase, most_topk: int, device: torch.device) -> Tensor:
    """Return topk_ids [M, topk], the first of the ``most_topk`` experts that are drawn for each token."""
    # Only these draw a token's experts one after another, so that a smaller topk is a prefix of a larger one.
    if parse_spec(case.routing).kind not in ("uniform", "zipf", "hot"):
        most_topk = case.topk
    return _drawn(case.routing, case.tokens, case.E, most_topk, case.seed)[:, : case.topk].contiguous().to(device)


@lru_cache(maxsize=1)
def _drawn(routing: str, tokens: int, E: int, topk: int, seed: int) -> Tensor:
    return synthetic(routing, tokens, E, topk, seed=seed).topk_ids


@cache
def _settle() -> None:
    """Keep the garbage collector from walking all that was imported: every graph capture calls it. Runs only once."""
    gc.collect()
    gc.freeze()


@cache
def _info(name: str) -> dict[str, Any]:
    return plugins.info("align", name)


@cache
def _floor(name: str, mode: str, device: torch.device) -> Callable[[], object]:
    """Return the timed step for one of ``FLOORS``; the same for every case."""
    return ready(partial(launch_nothing, torch.zeros(1, dtype=torch.int32, device=device), *FLOORS[name]), mode, device)


def _row(
    name: str, mode: str, repetitions: int, times: Sequence[float] = (), error: str | None = None
) -> dict[str, Any]:
    """Return the fields of a row beyond those of the case."""
    return {
        "algorithm": name,
        "mode": mode,
        "repetitions": repetitions,
        "launches": None,
        **(quantiles_us(times) if times else dict.fromkeys(("median_us", "p20_us", "p80_us"))),
        "deterministic": None if name in FLOORS else _info(name).get("deterministic"),
        "kernels_warm_us": None,
        "error": error,
    }


def _checked_steps(
    name: str, case: AlignCase, ids: Tensor, expected: tuple[int, Tensor, Tensor], modes: Sequence[str]
) -> dict[tuple[str, str], Callable[[], object]]:
    """Return the timed step of each mode, after comparing the result with the reference."""
    call, allocating = _calls(name, ids, case)
    _check(name, case, call(), ids, expected)
    timed = {mode: allocating if mode == "eager+allocation" else call for mode in modes}
    steps = {(name, mode): ready(timed[mode], mode, ids.device) for mode in modes}
    # Again, because an algorithm may leave state in its scratch memory for the next call.
    _check(name, case, call(), ids, expected)
    return steps


def one_line(error: Exception) -> str:
    """Return the type of an error and the last line of its text before a C++ stack, at most 200 characters."""
    # The last line: compilers and tracebacks put the reason there. PyTorch and NCCL append the stack.
    told = re.split(r"^(?:Exception raised from |frame #\d)", str(error), maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:200]


def _calls(name: str, ids: Tensor, case: AlignCase) -> tuple[Callable[[], Alignment], Callable[[], Alignment]]:
    """Return the call that writes to memory allocated beforehand, and the call that allocates."""
    plugin = plugins.load("align", name)
    out = workspace(plugin, ids, case.block_m, case.E)
    allocating = partial(plugin.align, ids, case.block_m, case.E)
    return partial(allocating, out=out), allocating


def canonical(alignment: Alignment, topk_ids: Tensor, block_m: int) -> tuple[int, Tensor, Tensor]:
    """Return (rows_padded, expert ids of the tiles, rows sorted within each expert), which compare equal if right."""
    # The order within an expert may differ between algorithms, and from call to call with atomics.
    total = int(alignment.num_tokens_post_padded)
    tiles = alignment.expert_ids[: total // block_m]
    rows = alignment.sorted_token_ids[:total].long()
    # One sort of (expert, row) sorts all groups; + 1 keeps tiles of expert -1 apart from expert 0.
    group = tiles.long().repeat_interleave(block_m) + 1
    return total, tiles.clone(), (group * (topk_ids.numel() + 1) + rows).sort().values


def _check(name: str, case: AlignCase, result: Alignment, ids: Tensor, expected: tuple[int, Tensor, Tensor]) -> None:
    found = canonical(result, ids, case.block_m)
    same = found[0] == expected[0] and all(torch.equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))
    if not same:
        raise UserError(f"The align algorithm '{name}' gives a wrong result for {case}; do not use its times.")


def align_cases(options: dict[str, Any]) -> Iterator[AlignCase]:
    """Yield the cases of a benchmark: every combination of E, routing, tokens, block_m and topk with topk <= E."""
    keys = ("experts", "routing", "tokens", "block_m", "topk")  # block_m and topk last: they share drawn ids
    for E, routing, tokens, block_m, topk in product(*(options[key] for key in keys)):
        if topk <= E:
            yield AlignCase(tokens, E, topk, block_m, routing, options["seed"])
