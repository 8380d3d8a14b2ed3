"""Align & sort a few thousand pairs in one launch: every program counts all pairs and lays out its own experts."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import per_expert
from moe_lab.spec.errors import UserError

INFO = {
    "about": "Triton, one launch: every program counts all pairs and lays out its own experts; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "most_pairs": 8192,
    "steps": {"per_expert_kernel": "count+cumsum+place"},
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
    if topk_ids.numel() > per_expert.MOST_PAIRS:
        raise UserError(f"'one_launch' takes up to {per_expert.MOST_PAIRS} pairs, not {topk_ids.numel()}; use 'auto'.")
    out = out or buffers(topk_ids, block_m, E)
    return run(per_expert.align_per_expert, topk_ids, block_m, E, expert_map, remote, out)
