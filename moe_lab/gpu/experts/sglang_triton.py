# SPDX-License-Identifier: Apache-2.0
"""SGLang's Triton grouped GEMM and tuned tiles, from an installed SGLang or a released wheel."""

from functools import cache
from types import SimpleNamespace

from moe_lab.gpu.experts._platform import capability, cuda, rocm
from moe_lab.gpu.experts._wheel import WheelPipeline

INFO = {
    "about": "SGLang's fused_moe_kernel with its tuned tiles; align, quantisation, activation and sum are ours",
    "needs": ["torch", "triton", "peer:sglang"],
    "install": "pip install sglang, or moe-lab peers add sglang==0.5.23",
    "peer": "sglang",
    "tried": ["0.5.8", "0.5.23"],
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
    "source": "https://github.com/sgl-project/sglang",
}


@cache  # keeps what the release has imported, and its tiles
def at(version: str | None) -> WheelPipeline:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    settings = SimpleNamespace(enable_deterministic_inference=False)
    answers = {
        "is_cuda": cuda,
        "is_hip": rocm,
        "is_sm90_supported": lambda *given: capability()[0] == 9,
        "envs": SimpleNamespace(SGLANG_USE_AITER=SimpleNamespace(get=lambda: False)),
        "is_cpu": lambda: False,
        "cpu_has_amx_support": lambda: False,
        "get_bool_env_var": lambda *given: False,
        "is_arch_support_pdl": lambda: capability()[0] >= 9,  # asked before kernels are allowed to begin early
        "is_batch_invariant_mode_enabled": lambda: False,
        # Releases ask for the settings in one of these two ways.
        "get_global_server_args": lambda: settings,
        "get_exec": lambda: SimpleNamespace(deterministic=settings),
        "get_moe_padding_size": lambda *given: 0,
        # Our own kernel has already quantised x; of int8 the launcher asks for the scales, without those it is given.
        "scaled_fp8_quant": lambda x, scale, **named: (x, scale),
        "per_token_quant_int8": lambda x: (x, pipeline.token_scales),
    }
    pipeline: WheelPipeline = WheelPipeline("sglang", version, answers)
    return pipeline
