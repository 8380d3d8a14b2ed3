"""Align & sort over the whole GPU in two or three Triton launches: count chunks, place chunks. Stable, no atomics."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import count_place

INFO = {
    "about": "Triton over the whole GPU: count chunks, add up the counts (a launch of its own if many), place; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {"count_kernel": "count", "scan_kernel": "cumsum", "place_kernel": "cumsum+place"},
    "source": "moe_lab; distributed counting as in SGLang's multi-block align",
}

scratch = count_place.scratch_size


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert; see ``moe_lab.gpu.align.torch_ref``."""
    out = out or buffers(topk_ids, block_m, E, scratch(topk_ids.numel(), E))
    return run(count_place.align_count_place, topk_ids, block_m, E, expert_map, remote, out)
