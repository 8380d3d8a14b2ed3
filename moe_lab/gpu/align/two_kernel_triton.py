"""Align & sort as vLLM and SGLang do it: one block counts and scans, many blocks place by atomics."""

from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, run
from moe_lab.gpu.kernels import _pairs, count_scan_place

INFO = {
    "about": "Triton stand-in for today's vLLM and SGLang: one block counts and scans, many blocks place by atomics",
    "needs": ["torch", "triton"],
    "deterministic": False,
    "steps": {"count_scan_kernel": "count+cumsum", "place_by_atomics_kernel": "place"},
    "source": "moe_lab, after the two-kernel moe_align_block_size of vLLM and SGLang",
}


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way."""
    return _pairs.bins_of(E)


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
    return run(count_scan_place.align_count_scan_place, topk_ids, block_m, E, expert_map, remote, out)
