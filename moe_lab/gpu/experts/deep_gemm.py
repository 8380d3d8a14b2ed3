# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's grouped GEMMs, bf16 and fp8, on rows gathered by expert; fp8 with few tokens in the masked layout."""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import capability
from moe_lab.gpu.experts._standins import load_package
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.padded_rows import contiguous, masked, place_rows
from moe_lab.spec import peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "DeepGEMM m_grouped_{bf16,fp8}_gemm_nt_contiguous, fp8 with few tokens _masked; the rest is ours",
    "needs": ["torch", "triton", "peer:deep_gemm"],
    "install": "pip install git+https://github.com/deepseek-ai/DeepGEMM.git, or moe-lab peers add vllm==0.33.0",
    "peer": "deep_gemm",
    "tried": ["2.8.1 in vllm 0.33.0"],
    "hardware": "NVIDIA SM90, SM100 (fp8_block: SM90)",
    "formats": ["bf16", "fp8_block"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "inputs": ["standard", "batched"],
    "multiple_of": 64,
    "cuda_graph": True,
    "source": "https://github.com/deepseek-ai/DeepGEMM",
}

MOST_MASKED = 256  # tokens
ROOM = 128  # a tile stores all of its rows, so the room of an expert must hold whole tiles


class DeepGemm:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is imported yet."""
        self.peer = peers.get("deep_gemm", version)

    @cached_property
    def _library(self) -> Any:
        return load_package(self.peer.root, "deep_gemm", ("",))[""]

    def block_m(self, problem: MoEProblem) -> int:
        """Return the multiple to which an expert's rows are padded: the rows of wgmma if masked, else of a tile."""
        if _masked(problem):
            return 64
        # The function was renamed; releases before it have tiles of 128 rows.
        names = "get_mk_alignment_for_contiguous_layout", "get_m_alignment_for_contiguous_layout"
        known = next((getattr(self._library, name) for name in names if hasattr(self._library, name)), lambda: 128)
        return int(known())

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
        """Return the layer's output [M, K] in bf16. No host synchronisation.

        Raises:
            UserError: sizes or a GPU that the kernels do not support.
        """
        quantised = isinstance(w13, Quantised)
        _check(problem, quantised)
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        with mark("align"):
            place, counts, room = self._layout(topk_ids, problem)
        rows = room * (problem.E if _masked(problem) else 1)
        scaled = room if quantised else None
        with mark("quant+dispatch" if quantised else "dispatch"):
            gathered = place_rows(x, place, rows, problem.topk, room=scaled)
        with mark("w13"):
            gate_up = self._gemm(gathered, w13, x.new_empty((rows, problem.rows13)), counts, problem)
        with mark("act+quant" if quantised else "act"):
            hidden = place_rows(gate_up, place, rows, problem.topk, room=scaled, activation=problem.activation)
        with mark("w2"):
            out = self._gemm(hidden, w2, x.new_empty((rows, problem.K)), counts, problem)
        with mark("combine"):
            return combine(out, problem.topk, topk_weights, place)

    def _layout(self, topk_ids: Tensor, problem: MoEProblem) -> tuple[Tensor, Tensor, int]:
        """Return the row of each pair, counts, and the room in rows.

        If masked, the counts are the rows of each expert, and the room is that of each expert; else they are the expert
        of each row, and the room is that of all.
        """
        if _masked(problem):
            room = ROOM * -(-problem.M // ROOM)
            return *masked(topk_ids, problem.E, room), room
        tile = self.block_m(problem)
        place, groups = contiguous(align_of("auto")(topk_ids, tile, problem.E), tile, problem.rows_useful)
        return place, groups, groups.numel()

    def _gemm(self, x: Weights, w: Weights, y: Tensor, counts: Tensor, problem: MoEProblem) -> Tensor:
        """Compute y [rows, columns] = x @ w^T, expert by expert, and return it."""
        library = self._library
        if not isinstance(x, Quantised) or not isinstance(w, Quantised):
            library.m_grouped_bf16_gemm_nt_contiguous(x, w, y, counts)
            return y
        factors = (x.values, x.scales[0]), (w.values, w.scales)
        if not _masked(problem):
            library.m_grouped_fp8_gemm_nt_contiguous(*factors, y, counts)
            return y
        E, mean = problem.E, -(-problem.rows_useful // problem.E)  # DeepGEMM chooses its tile by the expected rows
        by_expert = (x.values.view(E, -1, x.values.shape[1]), x.scales), factors[1]
        library.m_grouped_fp8_gemm_nt_masked(*by_expert, y.view(E, -1, y.shape[1]), counts, mean)
        return y


def _masked(problem: MoEProblem) -> bool:
    """Return whether every expert gets room for all tokens: faster if most tiles of 128 rows would be padding."""
    return problem.format == "fp8_block" and problem.M <= MOST_MASKED


def _check(problem: MoEProblem, quantised: bool) -> None:
    multiple = 128 if quantised else 64  # weights have a scale per 128 x 128
    if problem.K % multiple or problem.N % multiple:
        raise UserError(
            f"deep_gemm needs K and N to be multiples of {multiple}{' in fp8_block' if quantised else ''}, not "
            f"{problem.K} and {problem.N}."
        )
    if quantised and capability()[0] != 9:  # newer GPUs want scales that are powers of two
        raise UserError("deep_gemm takes fp8_block with fp32 scales on compute capability 9.0 only; choose bf16 here.")


@cache  # keeps what the release has imported
def at(version: str | None) -> DeepGemm:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    return DeepGemm(version)
