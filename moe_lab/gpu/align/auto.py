# SPDX-License-Identifier: Apache-2.0
"""Align & sort by the one of our algorithms that suits the GPU and the number of pairs."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, cooperative, multi_block, one_launch, small
from moe_lab.gpu.kernels._nvrtc import usable

INFO = {
    "about": "picks small, one_launch, cooperative (NVIDIA) or multi_block by GPU, pairs and experts; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "zeroed": True,
    "source": "moe_lab",
}

# Graph replay on an H200, cold L2, docs/kernels.md: cooperative overtakes one_launch between 2048 and 4096 pairs, and
# multi_block does at 8192; small is faster than one_launch only with 512 experts and up to 32 pairs.
MOST_PAIRS_SMALL, LEAST_EXPERTS_SMALL = 32, 512
MOST_PAIRS_ONE_LAUNCH = 2048
MOST_PAIRS_ONE_LAUNCH_PORTABLE = 8192


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs on any GPU."""
    if numel <= MOST_PAIRS_ONE_LAUNCH:
        return 0
    return max(cooperative.scratch(numel, E), multi_block.scratch(numel, E))


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending order of pairs within an expert; see ``moe_lab.gpu.align.torch_ref``."""
    numel = topk_ids.numel()
    if numel <= MOST_PAIRS_SMALL and E >= LEAST_EXPERTS_SMALL:
        return small.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
    cuda = usable(topk_ids.device)
    if numel <= (MOST_PAIRS_ONE_LAUNCH if cuda else MOST_PAIRS_ONE_LAUNCH_PORTABLE):
        return one_launch.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
    if not cuda or cooperative.plan_on(topk_ids.device, numel, E) is None:
        return multi_block.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
    size = cooperative.scratch(numel, E)
    out = out or buffers(topk_ids, block_m, E, size, zeroed=True)
    out = out._replace(scratch=out.scratch[:size])  # ``scratch`` above is for any algorithm, so it may be larger
    return cooperative.align(topk_ids, block_m, E, expert_map=expert_map, remote=remote, out=out)
