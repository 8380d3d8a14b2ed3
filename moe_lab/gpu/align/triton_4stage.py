"""Align & sort in four Triton launches, the shape of SGLang's first version."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import four_stage

INFO = {
    "about": "Triton, four launches: histogram a program, running sum an expert, running sum over experts, scatter",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {
        "share_histogram_kernel": "count",
        "column_cumsum_kernel": "cumsum",
        "expert_cumsum_kernel": "cumsum",
        "scatter_kernel": "place",
    },
    "source": "moe_lab, after the stages of SGLang's first Triton moe_align_block_size",
}


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way."""
    return four_stage.scratch_size(E)


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
    return run(four_stage.align_four_stage, topk_ids, block_m, E, expert_map, remote, out)
