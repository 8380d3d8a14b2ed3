# SPDX-License-Identifier: Apache-2.0
"""SGLang's DeepGEMM: dispatch, w13, activation, w2 and combine in one launch, here on a single rank."""

from collections.abc import Callable
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

Memory = Callable[[int], tuple[Tensor, list[int], Any]]
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
        check(problem)
        if problem.M == 0:
            return torch.empty_like(x)
        return self.layer(x, w13, w2, topk_weights, topk_ids, problem, mark, self._room(problem, x.device))

    def layer(
        self,
        x: Tensor,
        w13: Quantised,
        w2: Quantised,
        topk_weights: Tensor,
        topk_ids: Tensor,
        problem: MoEProblem,
        mark: Mark,
        room: SimpleNamespace,
    ) -> Tensor:
        """Return y [M, K] of this rank's tokens x [M, K]; all ranks of the room do so together, if M is 0 too.

        Args:
            x: bf16.
            w13: [experts of this rank, 2N, K], of ``prepare``.
            w2: [experts of this rank, K, N].
            topk_weights: [M, topk] fp32.
            topk_ids: [M, topk] integer, among the experts of all ranks; -1 = dropped.
            problem: of this rank's tokens.
            mark: opens the ranges.
            room: of ``make_room``.
        """
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        y = torch.empty_like(x)
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
        M = len(x)
        quantise(x, into=(room.x[:M], room.x_sf[:M]))
        room.topk_idx[:M].copy_(topk_ids)
        room.topk_weights[:M].copy_(topk_weights)

    def _room(self, problem: MoEProblem, device: torch.device) -> SimpleNamespace:
        """Return the memory of a layer on one rank, made once: what an engine shares between ranks is plain memory."""
        sizes = problem.E, problem.M, problem.topk, problem.K, problem.N
        if sizes not in self._rooms:

            def plain(size: int) -> tuple[Tensor, list[int], None]:
                memory = torch.zeros(size, dtype=torch.uint8, device=device)
                return memory, [memory.data_ptr()], None

            self._rooms[sizes] = self.make_room(problem, 0, plain)
        return self._rooms[sizes]

    def make_room(self, problem: MoEProblem, rank: int, make: Memory, ranks: int = 1) -> SimpleNamespace:
        """Return the memory of layers of up to ``problem.M`` tokens on each rank.

        It has the names that ``fp8_mega_moe`` reads of a buffer: x [room, K] e4m3, x_sf [room, K / 128] fp32, topk_idx
        int64 and topk_weights fp32 [room, topk], room being M or a little more. The kernel leaves its counters at zero.

        Args:
            problem: of one rank's tokens, E of all ranks.
            rank: this one.
            make: bytes -> memory of zeros [bytes] uint8, where that of each rank begins, and what keeps it there.
            ranks: that share the experts.
        """
        library = self._library._C
        step = library.get_token_alignment_for_mega_moe()
        most = step * -(-max(1, problem.M) // step)
        sizes = problem.E, most, problem.topk, problem.K, problem.N
        needed, cut = library.get_symm_buffer_size_for_sm90_mega_moe(ranks, *sizes, True, "swiglu")
        memory, begins, mapping = make(needed)
        buffer = memory.view(torch.int8)
        x, *others = (from_dlpack(part) for part in cut(buffer))
        return SimpleNamespace(
            buffer=buffer,
            handle=SimpleNamespace(buffer_ptrs=begins, mapping=mapping),
            group=SimpleNamespace(rank=lambda: rank),
            num_experts=problem.E,
            num_max_tokens_per_rank=most,
            num_topk=problem.topk,
            x=x.view(torch.float8_e4m3fn),
            **dict(zip(("x_sf", "topk_idx", "topk_weights"), others, strict=False)),
        )


def check(problem: MoEProblem) -> None:
    """Raise UserError for sizes or a GPU that the kernel does not take."""
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
