# SPDX-License-Identifier: Apache-2.0
"""Align & sort algorithms, one file each: ``align(topk_ids, block_m, E) -> Alignment``.

On a rank that holds only some of the experts, they also take its ``expert_map`` (from ``spec.parallel.Parallel``) and
return tiles with local expert numbers, so that no other kernel needs to know about ranks.
"""

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import capacity

if TYPE_CHECKING:
    from torch import Tensor

MOST_EXPERTS = 1024
Remote = Literal["drop", "tiles"]


class Alignment(NamedTuple):
    """Pair indices grouped by expert, each expert's group padded to a multiple of ``block_m``.

    A pair is (token, slot) with index token * topk + slot. Only the first ``num_tokens_post_padded`` entries, and the
    first ``num_tokens_post_padded / block_m`` expert ids, are defined; the rest is unspecified.

    Attributes:
        sorted_token_ids: [capacity(numel, block_m, E)] int32, pair indices; padding is M * topk.
        expert_ids: [ceil(capacity / block_m)] int32, the expert of each tile of block_m rows.
        num_tokens_post_padded: [1] int32, total rows of the padded groups.
    """

    sorted_token_ids: "Tensor"
    expert_ids: "Tensor"
    num_tokens_post_padded: "Tensor"


class Buffers(NamedTuple):
    """Memory that an algorithm writes: its result, and scratch memory.

    Attributes:
        alignment: the result.
        scratch: [n] int32, n = the algorithm's ``scratch(numel, E)``; zero before the first call if its INFO says
            ``zeroed``: such an algorithm keeps state there for its next call.
    """

    alignment: Alignment
    scratch: "Tensor"


def counted(topk_ids: "Tensor", E: int) -> "Tensor":
    """Return [E] int64: the number of pairs of each expert, for ids in 0..E-1."""
    return topk_ids.flatten().long().bincount(minlength=E)


def padded(counts: "Tensor", block_m: int) -> "Tensor":
    """Return [E]: the rows of each expert, its pairs padded to whole tiles; their sum is num_tokens_post_padded."""
    return (counts + block_m - 1) // block_m * block_m


def workspace(plugin: ModuleType, topk_ids: "Tensor", block_m: int, E: int) -> Buffers:
    """Return memory that an algorithm can use again and again, one call at a time, for inputs sized like ``topk_ids``.

    Args:
        plugin: a module of this folder.
        topk_ids: [M, topk] int32 or int64, contiguous.
        block_m: rows per tile.
        E: experts.
    """
    size = plugin.scratch(topk_ids.numel(), E) if hasattr(plugin, "scratch") else 0
    return buffers(topk_ids, block_m, E, size, zeroed=bool(plugin.INFO.get("zeroed")))


def launcher(
    name: str,
    info: dict[str, Any],
    fill: Callable[[Any, int, int, Buffers, Any, bool, bool], None],
    scratch: Callable[[int, int], int] = lambda numel, E: 0,
) -> Callable[..., Alignment]:
    """Return the ``align`` of a plugin, see ``torch_ref.align``.

    Args:
        name: name of the plugin's module.
        info: its INFO; above ``most_pairs`` the algorithm raises a UserError.
        fill: (topk_ids, block_m, E, out, expert_map, drop, relabel) -> launches the kernels. With ``drop``, pairs whose
            expert maps to -1 are dropped; with ``relabel``, tiles carry the number that their expert maps to; with
            neither, the map is not read and may be any tensor.
        scratch: (numel, E) -> int32 entries of scratch memory that a call needs.
    """

    def align(
        topk_ids: "Tensor",
        block_m: int,
        E: int,
        *,
        expert_map: "Tensor | None" = None,
        remote: Remote = "drop",
        out: Buffers | None = None,
    ) -> Alignment:
        numel = topk_ids.numel()
        if numel > info.get("most_pairs", numel):
            own = name.rpartition(".")[2]
            raise UserError(f"'{own}' takes up to {info['most_pairs']} pairs, not {numel}; use 'auto'.")
        out = out or buffers(topk_ids, block_m, E, scratch(numel, E), zeroed=info.get("zeroed", False))
        if numel == 0:  # a grid of no blocks cannot be launched
            out.alignment.num_tokens_post_padded.zero_()
        elif expert_map is None:
            fill(topk_ids, block_m, E, out, topk_ids, False, False)
        else:
            fill(topk_ids, block_m, E, out, expert_map, remote == "drop", remote == "tiles")
        return out.alignment

    return align


def buffers(topk_ids: "Tensor", block_m: int, E: int, scratch: int = 0, *, zeroed: bool = False) -> Buffers:
    """Return uninitialised memory for one call, on the device of ``topk_ids``.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous.
        block_m: rows per tile.
        E: experts.
        scratch: int32 entries of scratch memory that the algorithm needs.
        zeroed: whether they start at zero.

    Raises:
        ValueError: an input that no algorithm takes. Only shapes and types are checked, so nothing waits for the device
    """
    import torch

    check_arguments(topk_ids, block_m, E)
    rows = capacity(topk_ids.numel(), block_m, E)
    result = (topk_ids.new_empty((size,), dtype=torch.int32) for size in (rows, -(-rows // block_m), 1))
    new = topk_ids.new_zeros if zeroed and scratch else topk_ids.new_empty
    return Buffers(Alignment(*result), new((scratch,), dtype=torch.int32))


def check_arguments(topk_ids: "Tensor", block_m: int, E: int) -> None:
    """Raise ValueError for a wrong dtype, a view with gaps, or sizes out of range; the ids are not checked."""
    import torch

    if topk_ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"topk_ids must be int32 or int64, not {topk_ids.dtype}; convert them first.")
    if not topk_ids.is_contiguous():
        raise ValueError("topk_ids must be contiguous; call .contiguous() first.")
    if not 1 <= E <= MOST_EXPERTS:
        raise ValueError(f"E must be in 1..{MOST_EXPERTS}, not {E}.")
    if block_m < 1:
        raise ValueError(f"block_m must be at least 1, not {block_m}.")
