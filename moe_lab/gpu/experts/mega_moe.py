"""SGLang's DeepGEMM: dispatch, w13, activation, w2 and combine in one launch, here on a single rank."""

from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import capability
from moe_lab.gpu.experts._standins import load_package
from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.spec import peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "SGLang's DeepGEMM fp8_mega_moe: one launch for the layer behind the quantised tokens, on one rank",
    "needs": ["torch", "triton", "tvm_ffi", "peer:sgl_deep_gemm"],
    "install": "pip install apache-tvm-ffi==0.1.11 and moe-lab peers add sgl-deep-gemm==0.1.4; nvcc at CUDA_HOME",
    "peer": "sgl_deep_gemm",
    "tried": ["0.1.4"],
    "hardware": "NVIDIA SM90",
    "formats": ["fp8_block"],
    "cpu_formats": [],
    "activations": ["silu"],
    "multiple_of": 256,
    "cuda_graph": True,
    "source": "https://github.com/sgl-project/DeepGEMM",
}

MOST_N = 4096  # a tile of rows says in 64 bits which 64 columns of N are there


class MegaMoe:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is imported yet."""
        self.peer = peers.get("sgl_deep_gemm", version)
        self._rooms: dict[tuple[int, ...], SimpleNamespace] = {}

    @cached_property
    def _library(self) -> Any:
        return load_package(self.peer.root, "deep_gemm", ("",))[""]

    def prepare(self, w13: Quantised, w2: Quantised) -> tuple[Quantised, Quantised]:
        """Return w13 with 8 gate rows and 8 up rows in turn, as its tiles take them, and w2 as it is."""
        factors = (w13.values, w13.scales), (w2.values, w2.scales)
        (rows, scales), _ = self._library.transform_weights_for_mega_moe_sm90(*factors)
        return Quantised(w13.format, rows, scales), w2

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile."""
        return 128 if problem.rows_useful >= 64 * problem.E else 64

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
            UserError: sizes or a GPU that the kernel does not take.
        """
        _check(problem)
        y = torch.empty_like(x)
        if problem.M == 0:
            return y
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        room = self._room(problem, x.device)
        with mark("quant"):
            self._fill(room, x, topk_weights, topk_ids)
        with mark("dispatch+w13+act+w2+combine"):
            self._library.fp8_mega_moe(y, (w13.values, w13.scales), (w2.values, w2.scales), room)
        return y

    def _fill(self, room: SimpleNamespace, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
        """Put quantised tokens and their routing where the kernel reads them."""
        theirs = getattr(self._library, "mega_moe_pre_dispatch_sm90", None)
        if theirs is not None:  # one launch; from 0.1.4.post1 on
            theirs(x, topk_ids, topk_weights, room.x, room.x_sf, room.topk_idx, room.topk_weights, len(x))
            return
        tokens = quantise(x)
        given = tokens.values, tokens.scales, topk_ids, topk_weights
        for place, numbers in zip((room.x, room.x_sf, room.topk_idx, room.topk_weights), given, strict=True):
            place[: len(x)].copy_(numbers)

    def _room(self, problem: MoEProblem, device: torch.device) -> SimpleNamespace:
        """Return the memory of a layer, made once: what an engine shares between ranks is plain memory on one.

        It has the names that ``fp8_mega_moe`` reads of a buffer: x [room, K] e4m3, x_sf [room, K / 128] fp32, topk_idx
        int64 and topk_weights fp32 [room, topk], room being M or a little more. The kernel leaves its counters at zero.
        """
        library = self._library._C
        step = library.get_token_alignment_for_mega_moe()
        sizes = problem.E, step * -(-problem.M // step), problem.topk, problem.K, problem.N
        if sizes not in self._rooms:
            needed, cut = library.get_symm_buffer_size_for_sm90_mega_moe(1, *sizes, True, "swiglu")
            memory = torch.zeros(needed, dtype=torch.int8, device=device)
            x, *others = (from_dlpack(part) for part in cut(memory))
            self._rooms[sizes] = SimpleNamespace(
                buffer=memory,
                handle=SimpleNamespace(buffer_ptrs=[memory.data_ptr()]),
                group=SimpleNamespace(rank=lambda: 0),
                num_experts=problem.E,
                num_max_tokens_per_rank=sizes[1],
                num_topk=problem.topk,
                x=x.view(torch.float8_e4m3fn),
                **dict(zip(("x_sf", "topk_idx", "topk_weights"), others, strict=False)),
            )
        return self._rooms[sizes]


def _check(problem: MoEProblem) -> None:
    if problem.K % 512 or problem.N % 256 or problem.N > MOST_N:
        raise UserError(
            f"mega_moe takes K that is a multiple of 512 and N that is one of 256 and at most {MOST_N}, not "
            f"{problem.K} and {problem.N}."
        )
    if capability()[0] != 9:
        raise UserError("mega_moe has this kernel for compute capability 9.0 only; choose fused_moe here.")


@cache
def at(version: str | None) -> MegaMoe:
    """Return the backend of one release; None = the newest in the cache."""
    return MegaMoe(version)
