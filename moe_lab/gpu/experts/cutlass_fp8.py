# SPDX-License-Identifier: Apache-2.0
"""vLLM's CUTLASS grouped GEMM for fp8 with a scale per token or per matrix, compiled in a library of its wheel.

Sort and GEMM are theirs; quantisation, the copy of rows, activation and sum are ours. Rows of an expert are not padded.
"""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import capability
from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.spec import formats, peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem, has_gate
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "vLLM's cutlass_moe_mm and its sort; quantisation, copy of rows, activation and sum are ours",
    "needs": ["torch", "triton", "peer:cutlass_fp8"],
    "install": "moe-lab peers add vllm==0.33.0",
    "peer": "cutlass_fp8",
    "tried": ["vllm-0.33.0"],
    "hardware": "NVIDIA SM90",
    "formats": ["fp8_tensor", "fp8_token"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "multiple_of": 16,
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/vllm",
}


class CutlassFp8:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is loaded yet."""
        self.peer = peers.get("cutlass_fp8", version)
        self._strides: dict[tuple[int, int, torch.device], Tensor] = {}

    @cached_property
    def _library(self) -> Any:
        torch.ops.load_library(str(self.peer.file("library")))
        return torch.ops._C

    def experts(
        self,
        x: Tensor,
        w13: Quantised,
        w2: Quantised,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in bf16. No host synchronisation.

        Raises:
            UserError: a GPU that the kernels are not compiled for.
        """
        if capability()[0] != 9:
            raise UserError("cutlass_fp8 is compiled for compute capability 9.0; choose another backend here.")
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        with mark("quant"):
            tokens = quantise(x, format=problem.format)
        with mark("align"):
            starts, sizes13, sizes2, token, place = self._sort(topk_ids, problem)
        with mark("dispatch"):
            rows = tokens.values.view(torch.uint8)[token].view(torch.float8_e4m3fn)
            scales = tokens.scales if tokens.scales.numel() == 1 else tokens.scales[token]
        with mark("w13"):
            gate_up = self._gemm(Quantised(problem.format, rows, scales), w13, starts, sizes13, x.dtype)
        with mark("act+quant"):
            hidden = quantise(gate_up, problem.activation, format=problem.format)
        with mark("w2"):
            out = self._gemm(hidden, w2, starts, sizes2, x.dtype)
        with mark("combine"):
            return combine(out, problem.topk, topk_weights, place)

    def _sort(self, topk_ids: Tensor, problem: MoEProblem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return [E] int64 first rows, sizes of both products [E, 3], and the token of a row and the row of a pair."""
        E, pairs = problem.E, problem.rows_useful
        starts, sizes = topk_ids.new_empty(E + 1), topk_ids.new_empty((2, E, 3))
        token, place = topk_ids.new_empty((2, pairs))
        gated = has_gate(problem.activation)
        given = starts, *sizes, token, place, E, problem.N, problem.K, None, gated
        self._library.get_cutlass_moe_mm_data(topk_ids, *given)
        return starts[:-1].long(), sizes[0], sizes[1], token, place

    def _gemm(self, x: Quantised, w: Quantised, starts: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x @ w^T [pairs, columns] for x [pairs, features], of which an expert has adjacent rows."""
        E, columns, features = w.values.shape
        y = torch.empty((x.values.shape[0], columns), dtype=dtype, device=starts.device)
        along, out = self._stride(E, features, starts.device), self._stride(E, columns, starts.device)
        per_row = formats.get(w.format).per_channel
        factors = y, x.values, w.values, x.scales, w.scales.view(E, -1), starts, sizes
        self._library.cutlass_moe_mm(*factors, along, along, out, per_row, per_row)
        return y

    def _stride(self, E: int, stride: int, device: torch.device) -> Tensor:
        if (E, stride, device) not in self._strides:
            self._strides[E, stride, device] = torch.full((E,), stride, dtype=torch.int64, device=device)
        return self._strides[E, stride, device]


@cache  # keeps what the release has loaded
def at(version: str | None) -> CutlassFp8:
    """Return the backend of one release; None = the one in the cache."""
    return CutlassFp8(version)
