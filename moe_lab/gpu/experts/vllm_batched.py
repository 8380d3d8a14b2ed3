# SPDX-License-Identifier: Apache-2.0
"""vLLM's batched Triton GEMM: every expert has room for all tokens, and a count says how many rows it has.

It is what vLLM runs behind a dispatch that leaves rows by expert (DeepEP's low latency); here they are laid out first.
"""

from functools import cache, cached_property
from types import ModuleType

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.experts import vllm_triton
from moe_lab.gpu.experts._launcher import flags
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import current_platform
from moe_lab.gpu.experts._room import check_room
from moe_lab.gpu.experts._standins import load_file
from moe_lab.gpu.experts._wheel import TYPES
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.padded_rows import masked, place_rows
from moe_lab.gpu.kernels.quantise import parts
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "vLLM's batched_triton_kernel with the tiles of its standard kernel; layout, activation and sum are ours",
    "needs": ["torch", "triton", "peer:vllm"],
    "install": "pip install vllm, or moe-lab peers add vllm==0.33.0",
    "peer": "vllm",
    "tried": ["0.33.0"],
    "hardware": "NVIDIA SM80+, AMD CDNA3+; the CPU under TRITON_INTERPRET=1 (fp32, fp16); fp8_block: NVIDIA SM89+",
    "formats": ["fp32", "fp16", "bf16", "fp8_block"],
    "cpu_formats": ["fp32", "fp16"],
    "fp32": "tf32",
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "inputs": ["batched"],
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/vllm",
}


class VllmBatched:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is imported yet."""
        self._standard = vllm_triton.at(version)
        self.peer = self._standard.peer

    @cached_property
    def _kernel(self) -> ModuleType:
        answers = {
            "tl": tl,
            "triton": triton,
            "current_platform": current_platform(),
            "use_tensor_descriptor": lambda: False,  # only Intel's GPUs do
            "normalize_batched_scales_shape": lambda scales, E: scales,  # ours have three dimensions
        }
        return load_file(self.peer.file("batched"), "vllm", answers)

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile."""
        return self._standard.block_m(problem)

    def experts(
        self,
        x: Tensor,
        w13: Weights,
        w2: Weights,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in the dtype of x. No host synchronisation.

        Raises:
            UserError: more tokens than experts get room for.
        """
        check_room("vllm_batched", problem.M)
        if problem.M == 0:
            return torch.empty_like(x)
        quantised = isinstance(w13, Quantised)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        rows, room = problem.E * problem.M, problem.M if quantised else None
        with mark("align"):
            place, counts = masked(topk_ids, problem.E, problem.M)
        with mark("quant+dispatch" if quantised else "dispatch"):
            placed = place_rows(x, place, rows, problem.topk, room=room)
        with mark("w13"):
            gate_up = self._gemm(placed, w13, counts, x.dtype, problem)
        with mark("act+quant" if quantised else "act"):
            hidden = place_rows(gate_up, place, rows, problem.topk, activation=problem.activation, room=room)
        with mark("w2"):
            out = self._gemm(hidden, w2, counts, x.dtype, problem)
        with mark("combine"):
            return combine(out, problem.topk, topk_weights, place)

    def _gemm(self, x: Weights, w: Weights, counts: Tensor, dtype: torch.dtype, problem: MoEProblem) -> Tensor:
        """Return x @ w^T [E * room, columns] for x [E * room, features], expert by expert."""
        (a, a_scale), (b, b_scale) = parts(x), parts(w)
        a = a.view(problem.E, problem.M, -1)
        y = torch.empty((problem.E, problem.M, b.shape[1]), dtype=dtype, device=a.device)
        kind = flags(problem.format)
        scheme = kind["use_fp8_w8a8"], False, False, self._standard.config(problem)
        how = kind["per_channel_quant"], kind["block_shape"]
        launch = self._kernel.invoke_moe_batched_triton_kernel
        launch(a, b, y, counts, TYPES[dtype], a_scale, b_scale, None, *scheme, *how)
        return y.view(-1, y.shape[2])


@cache  # keeps what the release has imported
def at(version: str | None) -> VllmBatched:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    return VllmBatched(version)
