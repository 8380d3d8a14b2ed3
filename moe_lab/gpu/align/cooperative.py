"""Align & sort in one cooperative launch of CUDA C++: count, exchange the counts, sort in shared memory, place."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import cooperative_align

INFO = {
    "about": "CUDA C++, one launch: blocks keep their pairs on chip and exchange counts once, as tagged words; stable",
    "needs": ["torch", "triton", "cuda.bindings", "cuda.core"],
    "deterministic": True,
    "zeroed": True,
    "steps": {"cooperative_align": "count+cumsum+place"},
    "source": "moe_lab; distributed counting as in SGLang's multi-block align, words with flags as in NCCL's LL",
}

scratch = cooperative_align.scratch_size


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

    ``out.scratch`` must be zero before its first call, serve calls of these sizes alone, and one call at a time.

    Raises:
        UserError: not an NVIDIA GPU of compute capability 8.0 or later, or more pairs than fit on chip.
        ValueError: ``out`` is for other sizes.
    """
    out = out or buffers(topk_ids, block_m, E, scratch(topk_ids.numel(), E), zeroed=True)
    return run(cooperative_align.align_cooperative, topk_ids, block_m, E, expert_map, remote, out)
