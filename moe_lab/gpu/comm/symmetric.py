# SPDX-License-Identifier: Apache-2.0
"""Our own way between the GPUs of a host: kernels that write into the other ranks' memory, see ``symmetric.cu``.

No host synchronisation and no library call, so that CUDA graphs hold it. Where a rank does not come, waits end after
``WAIT_S``; results are wrong from then on, ``check`` says so, and the ranks must make a new room.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._wire import Wire, shared, wire
from moe_lab.gpu.kernels._device import multiprocessors
from moe_lab.gpu.kernels._nvrtc import compiled, launch
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "CUDA C++: quantised rows written into the peers' memory over NVLink; no counts, works in CUDA graphs",
    "needs": ["torch", "triton", "cuda.core"],
    "install": "pip install cuda-core",
    "source": "moe_lab",
    "layout": "standard",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
    "formats": ["fp16", "bf16", "fp8_block"],
    "devices": ["cuda"],
}

SOURCE = Path(__file__).with_name("symmetric.cu")
THREADS, THREADS_OF_MANY = 1024, 512  # of a block with one token, with several: on an H100 2 to 3 % less time
MOST_RANKS = 32  # a lane of a warp for each
LINE = 128  # bytes that travel at once
BESIDE = 4  # a block takes a whole multiprocessor: with other kernels beside it, it has one of so many
EMPTY = -0x7FFF8000  # 0x80008000, see ``symmetric.cu``
WAIT_S = 20


class Places(NamedTuple):
    """Where parts of a rank's memory begin, in bytes, and where it ends; see ``symmetric.cu``."""

    started: int
    arrived: int
    ids: int
    weights: int
    rows: int
    back: int
    end: int


@dataclass(frozen=True)
class Plan:
    """How tokens are shared out and where they lie; the same on all ranks.

    Attributes:
        wire: how rows travel.
        blocks: thread blocks of a launch.
        threads: of a block.
    """

    wire: Wire
    blocks: int
    threads: int

    @property
    def tokens(self) -> int:
        """The most tokens of a rank; a grid cannot be empty."""
        return max(1, self.wire.sizes.tokens)

    @property
    def received(self) -> int:
        """Rows that have a place: one for each token of each rank."""
        return self.wire.parallel.ranks * self.tokens

    @property
    def row(self) -> int:
        """Bytes from a received row to the next."""
        return -(-self.wire.row // LINE) * LINE if self.wire.fp8 else self.wire.row

    @cached_property
    def at(self) -> Places:
        """Where things lie."""
        flags, rows = 4 * self.wire.parallel.ranks * self.blocks, self.received
        pairs, result = 4 * rows * self.wire.sizes.topk, rows * self.wire.sizes.K * self.wire.dtype.itemsize
        begins = [0]
        for size in (flags, flags, pairs, pairs, rows * self.row, 2 * result):
            begins.append(begins[-1] + -(-size // LINE) * LINE)
        return Places(*begins)

    @cached_property
    def macros(self) -> tuple[tuple[str, int | str], ...]:
        """What the kernels are compiled with."""
        sizes, parallel, tokens = self.wire.sizes, self.wire.parallel, self.tokens
        return (
            *(("THREADS", self.threads), ("BLOCKS", self.blocks), ("RANKS", parallel.ranks), ("RANK", parallel.rank)),
            *(("TOKENS", tokens), ("EACH", -(-tokens // self.blocks)), ("K", sizes.K), ("TOPK", sizes.topk)),
            *(("E", parallel.experts), ("COPIES", len(parallel.routes()[0])), ("ROW", self.row)),
            *(("FP8", int(self.wire.fp8)), ("HALF", int(self.wire.dtype == torch.float16))),
            ("WAIT_NS", f"{WAIT_S}000000000ull"),
            *((name.upper(), f"{begin}ll") for name, begin in self.at._asdict().items() if name != "end"),
        )


class Room:
    """The memory of all calls on this rank.

    Attributes:
        plan: where things lie in it.
        missing: [1] int32, the first rank that did not come in time, plus 1; 0 = all came.
    """

    def __init__(self, plan: Plan, memory: Tensor, begins: list[int], mapping: Any = None):
        """Fill the memory before any rank writes there.

        Args:
            plan: where things lie in it.
            memory: [plan.at.end] uint8 of this rank, which others can write.
            begins: where that of each rank begins, as this one addresses it.
            mapping: what keeps it there.
        """
        self.plan, self._memory, self._mapping, device = plan, memory, mapping, memory.device
        memory.zero_()
        memory[plan.at.back :].view(torch.int32).fill_(EMPTY)
        self._peers = torch.tensor(begins, dtype=torch.int64, device=device)
        self._routes = torch.tensor(plan.wire.parallel.routes(), dtype=torch.int32, device=device)
        self._needed = torch.zeros(plan.tokens, dtype=torch.int32, device=device)
        self._launches = torch.zeros(plan.blocks, dtype=torch.int32, device=device)
        self.missing = torch.zeros(1, dtype=torch.int32, device=device)

    @cached_property
    def received(self) -> tuple[Any, Tensor, Tensor]:
        """Where received rows lie: x [ranks * tokens, K], ids and weights [ranks * tokens, topk]."""
        at, rows, topk = self.plan.at, self.plan.received, self.plan.wire.sizes.topk

        def part(begin: int, columns: int) -> Tensor:
            return self._memory[begin : begin + rows * columns].view(rows, columns)

        ids, weights = part(at.ids, 4 * topk), part(at.weights, 4 * topk)
        x = self.plan.wire.x(part(at.rows, self.plan.row))
        return x, ids.view(torch.int32), weights.view(torch.float32)

    def dispatch(self, x: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> None:
        """Send tokens x [M, K] and wait for those of the others."""
        given = x.contiguous(), topk_ids.contiguous(), topk_weights.float().contiguous(), self._routes
        state = self._memory, self._peers, self._needed, self._launches, self.missing
        self._launch("dispatch", *given, *state, topk_ids.element_size() // 4, len(x))

    def combine(self, rows: Tensor, M: int) -> Tensor:
        """Return y [M, K] of rows [ranks * tokens, K]."""
        y = rows.new_empty((M, self.plan.wire.sizes.K))
        state = self._memory, self._peers, self._needed, self._launches, self.missing
        self._launch("combine", rows.contiguous(), y, *state, M)
        return y

    def _launch(self, name: str, *arguments: Tensor | int) -> None:
        launch(SOURCE, name, self.plan.blocks, self.plan.threads, *arguments, macros=self.plan.macros)


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make this rank's memory and find that of the others.

    Raises:
        UserError: too many ranks, ranks of different sizes, or what ``_wire.wire`` refuses.
    """
    if parallel.ranks > MOST_RANKS:
        raise UserError(f"symmetric is for up to {MOST_RANKS} ranks of one host, not {parallel.ranks}.")
    between = wire(parallel, sizes)
    most = _multiprocessors(sizes) // (BESIDE if sizes.overlap else 1)
    plan = Plan(between, max(1, min(most, sizes.tokens)), THREADS if sizes.tokens <= most else THREADS_OF_MANY)
    room = Room(plan, *shared(plan.at.end, parallel.rank, sizes.device))
    for kernel in ("dispatch", "combine"):  # now: a rank that compiles longer would be late for the others
        compiled(SOURCE, kernel, room.missing.device, plan.macros, 0, "")
    torch.cuda.synchronize(sizes.device)
    distributed.barrier()  # nobody writes before all memory is filled
    return room


def _multiprocessors(sizes: Sizes) -> int:
    """Return the fewest that the GPU of a rank has; UserError if the ranks' sizes differ."""
    every: list[Any] = [None] * distributed.get_world_size()
    own = {"tokens": sizes.tokens, "K": sizes.K, "topk": sizes.topk, "format": sizes.format}
    distributed.all_gather_object(every, (own, multiprocessors(sizes.device)))
    for rank, (theirs, _) in enumerate(every):
        if theirs != own:
            raise UserError(f"Rank {rank} makes room for {theirs}, this one for {own}; use the same sizes on all.")
    return min(int(count) for _, count in every)


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Room
) -> Received:
    """Write every token into the memory of each rank that holds experts of it, and wait for those of the others.

    Row t of rank s becomes row s * tokens + t, whose ids are -1 where it is not needed; nothing is copied after that.

    Args:
        x: [M, K] fp16 or bf16.
        topk_ids: [M, topk] int32 or int64, -1 = dropped.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    with mark("dispatch"):
        room.dispatch(x, topk_ids, topk_weights)
        return Received(*room.received, state=(room, len(x)))


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [ranks * tokens, K], written back and added up in fp32."""
    room, M = received.state
    with mark("combine"):
        y: Tensor = room.combine(rows, M)
        return y


def check(room: Room) -> None:
    """Wait for the calls so far; UserError names the first rank that did not come within ``WAIT_S``."""
    if late := int(room.missing):
        raise UserError(f"Rank {late - 1} sent nothing within {WAIT_S} s; see what its process says.")
