"""DeepGEMM's grouped bf16 GEMM on rows gathered by expert, each expert's padded to its alignment."""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._standins import load_package
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.spec import peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "DeepGEMM m_grouped_bf16_gemm_nt_contiguous; gather, activation and sum are ours",
    "needs": ["torch", "triton", "peer:deep_gemm"],
    "install": "pip install git+https://github.com/deepseek-ai/DeepGEMM.git, or moe-lab peers add vllm==0.33.0",
    "peer": "deep_gemm",
    "tried": ["2.8.1 in vllm 0.33.0"],
    "hardware": "NVIDIA SM90, SM100",
    "formats": ["bf16"],
    "cpu_formats": [],
    "activations": ["silu", "swigluoai"],
    "multiple_of": 64,
    "cuda_graph": True,
    "source": "https://github.com/deepseek-ai/DeepGEMM",
}


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
        """Return the rows to which each expert's rows are padded."""
        names = "get_mk_alignment_for_contiguous_layout", "get_m_alignment_for_contiguous_layout"
        known = next((getattr(self._library, name) for name in names if hasattr(self._library, name)), lambda: 128)
        return int(known())

    def experts(
        self,
        x: Tensor,
        w13: Tensor,
        w2: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in bf16. No host synchronisation."""
        if (problem.K | problem.N) % 64:
            raise UserError(f"deep_gemm takes K and N that are multiples of 64, not {problem.K} and {problem.N}.")
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        rows_a_tile, pairs = self.block_m(problem), problem.rows_useful
        with mark("align"):
            alignment = align_of("auto")(topk_ids, rows_a_tile, problem.E)
            tiles = alignment.expert_ids.numel()
            row = torch.arange(tiles * rows_a_tile, device=x.device)
            ids = torch.nn.functional.pad(
                alignment.sorted_token_ids, (0, row.numel() - alignment.sorted_token_ids.numel()), value=pairs
            )
            inside = row < alignment.num_tokens_post_padded
            pair = torch.where(inside & (ids < pairs), ids, pairs)
            group = torch.where(
                inside, alignment.expert_ids.repeat_interleave(rows_a_tile, output_size=row.numel()), -1
            )
        with mark("dispatch"):
            gathered = x[pair.clamp(max=pairs - 1) // problem.topk]
        with mark("w13"):
            gate_up = x.new_empty((row.numel(), 2 * problem.N))
            self._library.m_grouped_bf16_gemm_nt_contiguous(gathered, w13, gate_up, group.int())
        with mark("act"):
            hidden = gated_activation(gate_up, problem.activation)
        with mark("w2"):
            rows = x.new_empty((row.numel(), problem.K))
            self._library.m_grouped_bf16_gemm_nt_contiguous(hidden, w2, rows, group.int())
        with mark("combine"):
            place = torch.empty(pairs + 1, dtype=torch.long, device=x.device).scatter_(0, pair.long(), row)
            chosen = rows[place[:pairs]].view(problem.M, problem.topk, problem.K)
            return torch.einsum("mtk,mt->mk", chosen.float(), topk_weights).to(x.dtype)


@cache
def at(version: str | None) -> DeepGemm:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    return DeepGemm(version)
