# SPDX-License-Identifier: Apache-2.0
"""How tokens travel: rows as bytes with their experts and weights, and which rank each pair goes to."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, distributed

from moe_lab.gpu.comm import Sizes
from moe_lab.gpu.formats import Quantised, fp8_block
from moe_lab.gpu.kernels.hopper import row_bytes
from moe_lab.gpu.kernels.sent_rows import sent_rows
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel

GROUP = 128  # features that share a scale
PIECE = 16  # bytes that a thread stores at once
NUMBERS = 1 << 16  # a rank and a local number share the 32 bits of an id
SENT = ("fp32", "fp16", "bf16", "fp8_block")


@dataclass(frozen=True)
class Wire:
    """How the tokens of a rank travel: a message is a row, its topk expert ids and its topk router weights.

    Attributes:
        parallel: who holds what.
        sizes: of the room.
        step: bytes of which a message is a multiple.
    """

    parallel: Parallel
    sizes: Sizes
    step: int = PIECE

    @property
    def dtype(self) -> torch.dtype:
        """Of the tokens before and after."""
        return DTYPES[formats.get(self.sizes.format).dtype]

    @property
    def fp8(self) -> bool:
        """Whether rows travel in e4m3 with their scales."""
        return self.sizes.format == "fp8_block"

    @property
    def row(self) -> int:
        """Bytes of a row: with scales as ``kernels.hopper`` reads it, in sectors behind the numbers."""
        return row_bytes(self.sizes.K) if self.fp8 else self.sizes.K * self.dtype.itemsize

    @property
    def message(self) -> int:
        """Bytes of a row with its ids (int32) and weights (fp32)."""
        return -(-(self.row + 8 * self.sizes.topk) // self.step) * self.step

    @cached_property
    def _routes(self) -> Tensor:
        return torch.tensor(self.parallel.routes(), dtype=torch.int32, device=self.sizes.device)

    def targets(self, topk_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rank of each pair of topk_ids [M, topk] and its expert's number there, both [M, topk] int32.

        Both are -1 where the id is.
        """
        copy = (torch.arange(len(topk_ids), device=topk_ids.device) % self._routes.shape[1])[:, None]
        at = topk_ids.clamp_min(0).long()
        ranks, numbers = (torch.where(topk_ids < 0, -1, table[copy, at]) for table in self._routes)
        return ranks, numbers

    def needed(self, topk_ids: Tensor) -> Tensor:
        """Return [ranks, M] bool: a token of topk_ids [M, topk] has experts on a rank."""
        return self.pairs(topk_ids)[0].any(dim=2)

    def pairs(self, topk_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return [ranks, M, topk] bool, which pairs of topk_ids [M, topk] are a rank's, and each one's number there."""
        ranks, numbers = self.targets(topk_ids)
        return ranks == torch.arange(self.parallel.ranks, device=ranks.device)[:, None, None], numbers

    def coded(self, topk_ids: Tensor) -> Tensor:
        """Return [M, topk] int32, rank and number there of each pair in one, for a message that is the same to all."""
        ranks, numbers = self.targets(topk_ids)
        return torch.where(ranks < 0, -1, ranks * NUMBERS + numbers)

    def local(self, coded: Tensor) -> Tensor:
        """Return the numbers of this rank's experts in ids of ``coded``; -1 = on another rank."""
        here = (coded >= 0) & (coded // NUMBERS == self.parallel.rank)
        return torch.where(here, coded % NUMBERS, -1)

    def rows(self, x: Tensor) -> Tensor:
        """Return tokens x [M, K] as uint8 [M, row]."""
        if not self.fp8:
            return x.contiguous().view(torch.uint8)
        if x.is_cuda:
            return sent_rows(x.contiguous(), self.row)
        numbers = fp8_block.quantise_activations(x)  # Triton's interpreter computes bf16 wrongly
        rows = torch.zeros((len(x), self.row), dtype=torch.uint8, device=x.device)
        rows[:, : self.sizes.K] = numbers.values.view(torch.uint8)
        rows[:, self.sizes.K :][:, : 4 * numbers.scales.shape[1]] = numbers.scales.view(torch.uint8)
        return rows

    def packed(self, rows: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Return messages [n, message] of rows [n, row], ids [n, topk] int32 and weights [n, topk] fp32."""
        parts = [rows, ids.contiguous().view(torch.uint8), weights.float().contiguous().view(torch.uint8)]
        padding = self.message - self.row - 8 * self.sizes.topk
        return torch.cat([*parts, rows.new_zeros((len(rows), padding))], dim=1)

    def x(self, rows: Tensor) -> Tensor | Quantised:
        """Return what rows [n, at least row] uint8 stand for: [n, K] of the dtype, or e4m3 [n, K] with its scales."""
        K = self.sizes.K
        if not self.fp8:
            return rows[:, : self.row].view(self.dtype).contiguous()
        scales = rows[:, K : K + K // GROUP * 4].view(torch.float32)
        return Quantised(self.sizes.format, rows[:, :K].view(torch.float8_e4m3fn), scales)

    def unpacked(self, messages: Tensor) -> tuple[Tensor | Quantised, Tensor, Tensor]:
        """Return x, ids and weights of messages [n, message]; see ``packed``."""
        topk = self.sizes.topk
        both = messages[:, self.row : self.row + 8 * topk]
        ids, weights = both[:, : 4 * topk].view(torch.int32), both[:, 4 * topk :].view(torch.float32)
        return self.x(messages), ids.contiguous(), weights.contiguous()


def wire(parallel: Parallel, sizes: Sizes, step: int = PIECE) -> Wire:
    """Return how tokens travel between the ranks of the default process group, in messages of a multiple of ``step``.

    Raises:
        UserError: the process group is missing or of another size, or rows of these sizes cannot travel.
    """
    found = distributed.get_world_size() if distributed.is_initialized() else 0
    if found != parallel.ranks:
        raise UserError(f"The experts are placed on {parallel.ranks} ranks, but {found} are running; start as many.")
    if sizes.format not in SENT:
        raise UserError(f"Rows of {sizes.format} cannot be sent between ranks; choose one of: {', '.join(SENT)}.")
    multiple = GROUP if sizes.format == "fp8_block" else PIECE // DTYPES[sizes.format].itemsize
    if sizes.K % multiple:
        raise UserError(f"Between ranks K must be a multiple of {multiple} in {sizes.format}, not {sizes.K}.")
    return Wire(parallel, sizes, step)


def shared(size: int, rank: int, device: torch.device) -> tuple[Tensor, list[int], Any]:
    """Return memory [size] uint8 that the other ranks can write, where that of each begins, and what keeps it there."""
    from torch.distributed import _symmetric_memory as symmetric

    memory = symmetric.empty(size, dtype=torch.uint8, device=device)
    group = distributed.group.WORLD
    assert group is not None  # ``wire`` saw to that
    mapping = symmetric.rendezvous(memory, group)
    inside = memory.data_ptr() - mapping.buffer_ptrs[rank]  # an allocation may hold more than this tensor
    return memory, [begin + inside for begin in mapping.buffer_ptrs], mapping


def check_even(name: str, parallel: Parallel) -> None:
    """Raise UserError unless the ranks have equal shares of the experts in order."""
    usual = Parallel.contiguous(parallel.experts, parallel.ranks)
    if parallel.experts % parallel.ranks or parallel.placement != usual.placement:
        raise UserError(
            f"{name} takes equal shares of the experts in order, not {parallel.experts} on {parallel.ranks} ranks as "
            "they are placed; use --placement contiguous, or another way."
        )
