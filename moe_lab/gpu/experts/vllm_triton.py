# SPDX-License-Identifier: Apache-2.0
"""vLLM's Triton grouped GEMM and tuned tiles, from an installed vLLM or a released wheel."""

from functools import cache

import triton
import triton.language as tl

from moe_lab.gpu.experts._platform import current_platform, swaps_operands
from moe_lab.gpu.experts._wheel import WheelPipeline

INFO = {
    "about": "vLLM's fused_moe_kernel with its tuned tiles; align, quantisation, activation and sum are ours",
    "needs": ["torch", "triton", "peer:vllm"],
    "install": "pip install vllm, or moe-lab peers add vllm==0.33.0",
    "peer": "vllm",
    "tried": ["0.15.0", "0.33.0"],
    "hardware": "NVIDIA SM80+, AMD CDNA3+; the CPU under TRITON_INTERPRET=1 (fp32, fp16); "
    "fp8 formats: NVIDIA SM89+, where an H100 without tuned tiles takes an H200's",
    "formats": [
        "fp32",
        "fp16",
        "bf16",
        "fp8_block",
        "fp8_tensor",
        "fp8_token",
        "int8",
        "int8_w8a16",
        "int4_w4a16",
    ],
    "cpu_formats": ["fp32", "fp16", "bf16"],
    "fp32": "tf32",
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "biases": True,
    "unbiased": ["int4_w4a16"],
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/vllm",
}


@cache  # keeps what the release has imported, and its tiles
def at(version: str | None) -> WheelPipeline:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    answers = {
        "tl": tl,
        "triton": triton,
        "vllm_is_batch_invariant": lambda: False,
        "VLLM_BATCH_INVARIANT": False,  # from vllm.envs, where it is off by default
        "current_platform": current_platform(),
        "enable_swap_ab": swaps_operands,
        # With VLLM_TRITON_USE_TD unset, only Intel's GPUs use tensor descriptors.
        "resolve_moe_use_td": lambda: False,
        "warn_if_moe_use_td_ineffective": lambda *given, **named: None,
    }
    return WheelPipeline("vllm", version, answers)
