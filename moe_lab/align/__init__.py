"""Align & sort algorithms, one file each: ``align(topk_ids, block_m, E) -> Alignment``."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Alignment(NamedTuple):
    """Pair indices grouped by expert, each expert's group padded to a multiple of ``block_m``.

    A pair is (token, slot) with index token * topk + slot. Only the first ``num_tokens_post_padded`` entries, and the
    first ``num_tokens_post_padded / block_m`` expert ids, have a meaning; what lies behind them is unspecified.

    Attributes:
        sorted_token_ids: [capacity(numel, block_m, E)] int32, pair indices; padding is M * topk.
        expert_ids: [ceil(capacity / block_m)] int32, the expert of each tile of block_m rows.
        num_tokens_post_padded: [1] int32, the sum of the padded groups.
    """

    sorted_token_ids: "Tensor"
    expert_ids: "Tensor"
    num_tokens_post_padded: "Tensor"


def capacity(numel: int, block_m: int, E: int) -> int:
    """Return the most rows that numel pairs can need: each expert that is hit adds at most block_m - 1 rows of padding.

    That is numel + E * (block_m - 1), and numel * block_m when numel < E.
    """
    return numel + min(numel, E) * (block_m - 1)
