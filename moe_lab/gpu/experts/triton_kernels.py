# SPDX-License-Identifier: Apache-2.0
"""triton_kernels' matmul_ogs in its fastest form: fused SwiGLU, weights stored N-major, its own sort of the tokens.

Its own SwiGLU is the clamped one of gpt-oss; for SiLU its fused-activation hook gets a function of ours. Both need gate
and up columns interleaved, which ``prepare`` does. It uses the 3.5 API (``matmul_ogs``), which vLLM's wheels contain.
Weights in mxfp4 are laid out by its own functions, and sums along K not split on SM90, as vLLM has it for gpt-oss.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import capability
from moe_lab.gpu.experts._standins import load_package
from moe_lab.gpu.formats import AnyWeights, Quantised, apart
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT
from moe_lab.gpu.kernels.ogs import gated_silu, pack
from moe_lab.spec import peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "matmul_ogs with fused SwiGLU, N-major interleaved weights and its own routing sort",
    "needs": ["torch", "triton", "peer:triton_kernels"],
    "install": "moe-lab peers add vllm==0.15.0 (its wheel carries triton_kernels; PyPI's package is another project)",
    "peer": "triton_kernels",
    "tried": ["vllm-0.15.0", "vllm-0.33.0"],
    "hardware": "NVIDIA SM80+ (best on SM90+), AMD CDNA3+",
    "formats": ["fp16", "bf16", "mxfp4"],
    "cpu_formats": [],
    "activations": ["silu", "swigluoai"],
    "biases": True,
    "cuda_graph": True,
    "source": "https://github.com/triton-lang/triton/tree/main/python/triton_kernels",
}


@dataclass(frozen=True)
class Laid:
    """Weights of all experts as matmul_ogs reads them.

    Attributes:
        weights: [E, depth, columns], contiguous, so N-major; in mxfp4 one of its own tensors.
        precision: in mxfp4 what has the scales; else None.
        bias: [E, columns] fp32; None = there is none.
    """

    weights: Any
    precision: Any
    bias: Tensor | None


class MatmulOgs:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is imported yet."""
        self.peer = peers.get("triton_kernels", version)

    @cached_property
    def _modules(self) -> dict[str, ModuleType]:
        if torch.version.cuda is None and torch.version.hip is None:
            raise UserError("triton_kernels needs a GPU: it specialises compiled kernels, which have no CPU form.")
        details = "matmul_ogs_details.opt_flags", "tensor_details.layout"
        return load_package(self.peer.root, "triton_kernels", ("matmul_ogs", "routing", "tensor", "swiglu", *details))

    def prepare(self, w13: AnyWeights, w2: AnyWeights) -> tuple["Laid", "Laid"]:
        """Return w13 with gate and up columns interleaved, and w2."""
        (first, bias13), (second, bias2) = apart(w13), apart(w2)
        bias13 = None if bias13 is None else _interleaved(bias13[..., None])[..., 0].float()
        bias2 = None if bias2 is None else bias2.float()
        if isinstance(first, Quantised) and isinstance(second, Quantised):
            return Laid(*self._swizzled(first.each(_interleaved)), bias13), Laid(*self._swizzled(second), bias2)
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        E, rows, K = first.shape
        along13, along2 = first.new_empty((E, K, rows)), second.new_empty((E, second.shape[2], second.shape[1]))
        # Expert by expert: a transposed copy of all weights at once would need as much memory again.
        for expert in range(E):
            along13[expert] = _interleaved(first[expert][None])[0].T
            along2[expert] = second[expert].T
        return Laid(along13, None, bias13), Laid(along2, None, bias2)

    def _swizzled(self, w: Quantised) -> tuple[Any, Any]:
        tensor, layout = self._modules["tensor"], self._modules["tensor_details.layout"]
        scales = pad(w.scales, (0, -w.scales.shape[-1] % 4))  # it reads the scales of 128 numbers at once
        values = tensor.wrap_torch_tensor(w.values.mT, dtype=tensor.FP4)
        kind, options = layout.make_default_matmul_mxfp4_w_layout(mx_axis=1)
        values = tensor.convert_layout(values, kind, **options)
        kind, options = layout.make_default_matmul_mxfp4_w_scale_layout(mx_axis=1, num_warps=8)
        scales = tensor.convert_layout(tensor.wrap_torch_tensor(scales.mT), kind, **options)
        return values, self._modules["matmul_ogs"].PrecisionConfig(weight_scale=scales)

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile: an expert's mean rows, rounded up to a power of two from 16 to 128."""
        return max(16, min(int(triton.next_power_of_2(max(1, problem.rows_useful // problem.E))), 128))

    def experts(
        self,
        x: Tensor,
        w13: Laid,
        w2: Laid,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in the dtype of x. No host synchronisation."""
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        matmul_ogs = self._modules["matmul_ogs"].matmul_ogs
        self._constrain(problem.format)
        with mark("align"):
            routing, gather, scatter = self._sort(topk_weights, topk_ids, problem)
        with mark("w13+act"):
            activation = self._activation(problem.activation)
            how = {"gather_indx": gather, "precision_config": w13.precision, "fused_activation": activation}
            hidden = matmul_ogs(x, w13.weights, w13.bias, routing, **how)
        with mark("w2+combine"):
            hidden = hidden.view(problem.rows_useful, problem.N)
            how = {"scatter_indx": scatter, "precision_config": w2.precision, "gammas": routing.gate_scal}
            y = matmul_ogs(hidden, w2.weights, w2.bias, routing, **how)
        return y.view(problem.M, problem.K)  # type: ignore[no-any-return]

    def _constrain(self, format: str) -> None:
        flags = self._modules["matmul_ogs_details.opt_flags"]
        flags.reset_opt_flags_constraints()  # they hold for all that follows
        if format == "mxfp4" and capability()[0] == 9:
            flags.update_opt_flags_constraints({"split_k": 1})

    def _sort(self, topk_weights: Tensor, topk_ids: Tensor, problem: MoEProblem) -> Any:
        # Its sort takes the routing as a bit matrix, which its own router would make from logits.
        bits, zeros = pack(topk_ids, problem.E)
        shape, most = [problem.M, 32 * bits.shape[1]], [problem.M, None]
        matrix = self._modules["tensor"].Bitmatrix(bits, shape=shape, shape_max=most, scratchpad=zeros)
        route = self._modules["routing"].routing_from_bitmatrix
        return route(matrix, topk_weights, topk_ids, problem.E, problem.topk)

    def _activation(self, name: str) -> Any:
        ogs = self._modules["matmul_ogs"]
        if name == "silu":
            return ogs.FusedActivation(ogs.FnSpecs("gated_silu", gated_silu, ("alpha",)), (1.0,), 2)
        clamped = ogs.FnSpecs("swiglu", self._modules["swiglu"].swiglu_fn, ("alpha", "limit"))
        return ogs.FusedActivation(clamped, (float(ALPHA), float(LIMIT)), 2)


def _interleaved(rows: Tensor) -> Tensor:
    """Return [E, 2N, columns], gate rows then up rows, with a gate row and an up row in turn."""
    E, all_rows, columns = rows.shape
    return rows.view(E, 2, all_rows // 2, columns).transpose(1, 2).reshape(rows.shape)


@cache  # keeps what the release has imported
def at(version: str | None) -> MatmulOgs:
    """Return the backend of one release; None = the installed package, else the newest in the cache."""
    return MatmulOgs(version)
