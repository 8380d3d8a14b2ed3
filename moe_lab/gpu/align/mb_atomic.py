"""Align & sort over the whole GPU in two Triton launches, ranked by atomics: ``multi_block`` without its order."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import count_place

INFO = {
    "about": "Triton, two launches over the whole GPU: count chunks, then add up and place by private counters",
    "needs": ["torch", "triton"],
    "deterministic": False,
    "steps": {"count_kernel": "count", "scan_kernel": "cumsum", "place_kernel": "cumsum+place"},
    "source": "moe_lab; distributed counting as in SGLang's multi-block align",
}


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way."""
    return count_place.scratch_size(numel, E, "atomic")


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in no particular order inside an expert; see ``moe_lab.gpu.align.torch_ref``."""
    out = out or buffers(topk_ids, block_m, E, scratch(topk_ids.numel(), E))
    return run(count_place.align_count_place, topk_ids, block_m, E, expert_map, remote, out, rank="atomic")
