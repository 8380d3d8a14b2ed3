"""Align & sort as vLLM and SGLang do it, in CUDA C++: one block counts and scans, many blocks place by atomics."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import count_scan_place_cuda

INFO = {
    "about": "stand-in for today's vLLM and SGLang (CUDA): one block counts and scans, many blocks place by atomics",
    "needs": ["torch", "triton", "cuda.bindings", "cuda.core"],
    "deterministic": False,
    "steps": {"count_scan": "count+cumsum", "place": "place"},
    "source": "moe_lab, after the two-kernel moe_align_block_size of vLLM and SGLang",
}


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way."""
    return E


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in no particular order inside an expert; see ``moe_lab.gpu.align.torch_ref``.

    Raises:
        UserError: not an NVIDIA GPU of compute capability 8.0 or later.
    """
    out = out or buffers(topk_ids, block_m, E, scratch(topk_ids.numel(), E))
    return run(count_scan_place_cuda.align_count_scan_place_cuda, topk_ids, block_m, E, expert_map, remote, out)
