# SPDX-License-Identifier: Apache-2.0
"""Align & sort as vLLM and SGLang do it, in CUDA C++: one block counts and scans, many blocks place by atomics."""

from pathlib import Path

import triton
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.kernels._nvrtc import id_type, launch

INFO = {
    "about": "stand-in for today's vLLM and SGLang (CUDA): one block counts and scans, many blocks place by atomics",
    "needs": ["torch", "triton", "cuda.bindings", "cuda.core"],
    "deterministic": False,
    "steps": {"count_scan": "count+cumsum", "count_scan_kernel": "count+cumsum", "place": "place"},
    "source": "moe_lab, after the two-kernel moe_align_block_size of vLLM and SGLang",
}

SOURCE = Path(__file__).with_suffix(".cu")


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs."""
    return E


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    numel, rows = topk_ids.numel(), out.alignment.sorted_token_ids
    macros = (
        ("BINS", max(32, triton.next_power_of_2(E))),
        ("BLOCK_M", block_m),
        ("ID", id_type(topk_ids)),
        ("DROP", int(drop)),
        ("RELABEL", int(relabel)),
    )
    arguments = topk_ids, expert_map, *out.alignment, out.scratch, numel, E, rows.numel()
    launch(SOURCE, "count_scan", 2, 1024, *arguments, macros=macros)
    launch(
        SOURCE, "place", triton.cdiv(numel, 256), 256, topk_ids, expert_map, rows, out.scratch, numel, E, macros=macros
    )


align = launcher(__name__, INFO, _fill, scratch)
