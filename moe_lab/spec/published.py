"""Figures that others published, as data with their source: never ours, and marked so wherever they are shown."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Source:
    """Where published figures come from, and why they may not equal ours.

    Attributes:
        label: short name for a table head or a bar, such as ``1x L40``.
        setup: GPU, software, model and precision of the measurement.
        caveat: what may and may not be compared.
        model: our preset of the model.
    """

    label: str
    setup: str
    caveat: str
    model: str


L40 = Source(
    label="L40, published",
    setup="1x NVIDIA L40, SGLang 0.5.7, Qwen3-30B-A3B-FP8, batch 16, prefill of 2048 tokens each",
    caveat="another GPU, precision and implementation, so compare shares, not times",
    model="qwen3-30b-a3b",
)

# Milliseconds of GPU time of one decoder layer.
_L40_LAYER_MS: dict[str, dict[str, float]] = {
    "prefill": {"layers.0": 27.038, "self_attn": 11.550, "mlp": 14.313, "w13": 5.887, "w2": 3.408},
    "decode": {"layers.0": 0.427, "self_attn": 0.175, "mlp": 0.251, "w13": 0.163, "w2": 0.068},
}


def layer_table() -> pd.DataFrame:
    """Return the published time of one decoder layer on an L40, one row a phase and range.

    Returns:
        Columns ``phase``, ``name`` (range: layers.0, self_attn, mlp, w13, w2), ``time_ms``, ``pct_of_layer``,
        ``published`` (always True) and ``source``.
    """
    rows = [
        {"phase": phase, "name": name, "time_ms": ms, "pct_of_layer": 100 * ms / times["layers.0"]}
        for phase, times in _L40_LAYER_MS.items()
        for name, ms in times.items()
    ]
    return pd.DataFrame(rows).assign(published=True, source=f"{L40.label}: {L40.setup}")


def stage_shares() -> pd.DataFrame:
    """Return ``layer_table`` split so that the parts add up to the layer.

    Returns:
        Columns ``phase``, ``stage`` (self_attn, w13, w2, ``rest of mlp``, ``rest of layer``), ``time_ms``,
        ``pct_of_layer``, ``published``.
    """
    rows = []
    for phase, ms in _L40_LAYER_MS.items():
        parts = {
            "self_attn": ms["self_attn"],
            "w13": ms["w13"],
            "w2": ms["w2"],
            "rest of mlp": ms["mlp"] - ms["w13"] - ms["w2"],
            "rest of layer": ms["layers.0"] - ms["self_attn"] - ms["mlp"],
        }
        rows += [
            {"phase": phase, "stage": stage, "time_ms": t, "pct_of_layer": 100 * t / ms["layers.0"]}
            for stage, t in parts.items()
        ]
    return pd.DataFrame(rows).assign(published=True)


PEERS_CAVEAT = "measured on another H200, with torch 2.11 and Triton 3.6; absolute times move from machine to machine"

# Microseconds of one align call, block_m 64, replayed from a CUDA graph with a cold L2 cache, on another H200: the
# CUDA kernels of SGLang's and vLLM's two-kernel generations, torch.sort of the ids alone, and sgl-kernel 0.4.5.
_ALIGN_PEERS_US: dict[tuple[int, int], dict[int, tuple[float, float, float]]] = {
    (64, 6): {
        1: (11, 12, 11),
        256: (13, 10, 25),
        1024: (16, 13, 49),
        4096: (29, 27, 47),
        16384: (79, 82, 49),
        65536: (276, 302, 58),
    },
    (128, 8): {
        1: (14, 8, 13),
        256: (15, 10, 25),
        1024: (18, 14, 51),
        4096: (33, 30, 47),
        16384: (90, 94, 50),
        65536: (317, 352, 64),
    },
    (256, 8): {
        1: (17, 8, 13),
        256: (19, 11, 25),
        1024: (23, 16, 51),
        4096: (34, 29, 47),
        16384: (85, 87, 51),
        65536: (288, 320, 64),
    },
}
_SGL_KERNEL_US = {
    (128, 8): {1: 7.6, 1024: 12.9, 16384: 83.0, 65536: 303.0},
    (256, 8): {1: 8.2, 1024: 12.6, 16384: 92.0, 65536: 269.0},
}
ALIGN_PEERS = {
    "sglang_us": "SGLang",
    "vllm_us": "vLLM",
    "sgl_kernel_us": "sgl-kernel",
    "sort_us": "torch.sort",
}


def align_peers() -> pd.DataFrame:
    """Return what other projects' align kernels took on another H200: never ours.

    Returns:
        Columns ``tokens``, ``E``, ``topk`` and those of ``ALIGN_PEERS`` (us; NA where not measured).
    """
    rows = [
        {
            "tokens": tokens,
            "E": E,
            "topk": topk,
            "sglang_us": sglang,
            "vllm_us": vllm,
            "sgl_kernel_us": _SGL_KERNEL_US.get((E, topk), {}).get(tokens),
            "sort_us": sort,
        }
        for (E, topk), sizes in _ALIGN_PEERS_US.items()
        for tokens, (sglang, vllm, sort) in sizes.items()
    ]
    return pd.DataFrame(rows).convert_dtypes()


ALIGN_AMD = Source(
    label="AMD MI GPUs, published",
    setup="16384 tokens, top 8 of 256 experts, rocprof-compute; article 'Efficient MoE Align & Sort design in SGLang "
    "Fused MoE', 2025",
    caveat="another vendor's GPU and counters, so compare how the designs differ, not the figures",
    model="",
)
ALIGN_AMD_MULTI_BLOCK = (
    "multi-block kernel: 5 kB of LDS, 6.8 % bank conflicts, 18.61 % stalled on data; L1 traffic per operation from "
    "8 kB read and 27 B write to 109 B read, 468 B write and 202 B atomic"
)
ALIGN_SPEEDUPS = "3x on A100 and H200, 10x on MI100, 7x on MI300X and MI300A"


def align_amd() -> pd.DataFrame:
    """Return the published counters of the align kernels on AMD, one row a kernel.

    Returns:
        Columns ``kernel``, ``vgprs``, ``sgprs``, ``active_cus``, ``l1_hit_pct``, ``coalescing_pct``,
        ``l1_utilisation_pct``, ``cycles_k``; NA where nothing was published.
    """
    kernels = ("earlier moe_align_block_size (one block)", "earlier count_and_sort_expert_tokens", "multi-block")
    return pd.DataFrame(
        {
            "kernel": kernels,
            "vgprs": [20, 8, 52],
            "sgprs": [48, 32, 48],
            "active_cus": [3, 39, 66],
            "l1_hit_pct": [0, 27, 61],
            "coalescing_pct": [25, None, 36],
            "l1_utilisation_pct": [7, None, 18],
            "cycles_k": [330, 80, 200],
        }
    ).convert_dtypes()


L40_COUNTERS = Source(
    label="L40, published",
    setup="1x NVIDIA L40, Nsight Compute, w13 of Qwen3-30B-A3B in 16 bit, uniform routing",
    caveat="another GPU with other peaks, so compare which unit is busy, not times",
    model="qwen3-30b-a3b",
)


def w13_counters() -> pd.DataFrame:
    """Return the published counters of the w13 GEMM on an L40, one row a kernel and M.

    Returns:
        Columns ``backend``, ``M``, ``stage``, ``duration_us``, ``grid_blocks``, ``block_threads``,
        ``sm_throughput_pct``, ``mem_throughput_pct``, ``published`` (always True).
    """
    columns = ["backend", "M", "duration_us", "grid_blocks", "block_threads", "sm_throughput_pct", "mem_throughput_pct"]
    rows = [
        ("fused_moe", 16, 735.0, 6144, 128, 19.63, 94.82),
        ("matmul_ogs", 16, 706.0, 1536, 128, 20.98, 94.57),
        ("fused_moe", 8192, 5610.0, 27624, 128, 91.84, 44.75),
        ("matmul_ogs", 8192, 3308.0, 3834, 256, 93.18, 17.48),
    ]
    return pd.DataFrame(rows, columns=columns).assign(stage="w13", published=True)


SWEEP = Source(
    label="L40, published",
    setup="1x NVIDIA L40, SGLang 0.5.7, Qwen3-30B-A3B, 16-bit weights and activations",
    caveat="another GPU and other versions, so compare where the two change places, not times",
    model="qwen3-30b-a3b",
)
# M -> milliseconds of triton-kernels' matmul_ogs and of SGLang's fused_moe.
_SWEEP_MS = {
    16: (1.694, 1.150),
    32: (1.694, 1.554),
    64: (1.778, 1.767),
    128: (1.820, 1.830),
    256: (1.867, 2.673),
    512: (1.929, 2.787),
    1024: (2.069, 2.884),
    2048: (2.300, 3.111),
    4096: (3.230, 3.984),
    8192: (5.734, 9.158),
}


def sweep_table() -> pd.DataFrame:
    """Return the published times of two experts backends over M on an L40: never ours.

    Returns:
        Columns ``M``, ``triton_kernels_ms``, ``sglang_ms``, ``speedup`` (SGLang over triton-kernels).
    """
    rows = [{"M": M, "triton_kernels_ms": ogs, "sglang_ms": sglang} for M, (ogs, sglang) in _SWEEP_MS.items()]
    return pd.DataFrame(rows).assign(speedup=lambda t: t["sglang_ms"] / t["triton_kernels_ms"])
