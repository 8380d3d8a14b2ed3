"""Align & sort few pairs in one thread block: a decode step."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import pairwise
from moe_lab.spec.errors import UserError

INFO = {
    "about": "Triton, one thread block that compares every pair with every other: a few dozen pairs at most; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "most_pairs": 128,
    "steps": {"pairwise_kernel": "count+cumsum+place"},
    "source": "moe_lab",
}


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert; see ``moe_lab.gpu.align.torch_ref``.

    Raises:
        UserError: more pairs than it takes.
    """
    if topk_ids.numel() > pairwise.MOST_PAIRS:
        raise UserError(f"'small' takes up to {pairwise.MOST_PAIRS} pairs, not {topk_ids.numel()}; use 'auto'.")
    out = out or buffers(topk_ids, block_m, E)
    return run(pairwise.align_pairwise, topk_ids, block_m, E, expert_map, remote, out)
