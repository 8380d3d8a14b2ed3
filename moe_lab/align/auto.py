"""Align & sort by whichever of our algorithms suits the number of pairs."""

from torch import Tensor

from moe_lab.align import Alignment, Buffers, Remote, multi_block, one_launch

INFO = {
    "about": "picks one_launch or multi_block by the number of pairs",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "source": "moe_lab",
}

# Graph replay on an H200, E=128, cold L2: with 8192 pairs both take 9.1 us, with 2048 one_launch takes 5.6 and
# multi_block 8.7, with 32768 29 and 10. `small` is never quicker than one_launch by more than 0.1 us. See
# docs/kernels.md.
MOST_PAIRS_ONE_LAUNCH = 8192


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way."""
    return multi_block.scratch(numel, E) if numel > MOST_PAIRS_ONE_LAUNCH else 0


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert; see ``moe_lab.align.torch_ref``."""
    if topk_ids.numel() <= MOST_PAIRS_ONE_LAUNCH:
        return one_launch.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
    return multi_block.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
