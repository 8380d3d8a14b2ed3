# SPDX-License-Identifier: Apache-2.0
"""Read memory and store almost nothing: the fastest that bytes can be read."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device, multiprocessors
from moe_lab.gpu.kernels._jit import jit


@jit
def read_kernel(x, sums, numel, passes, first, stride, length, BLOCK: tl.constexpr):
    """Add up parts of x [numel] int32, ``passes`` times; each program writes one of sums [programs] int32.

    A program's part begins at ``first`` times its number, goes in steps of ``stride`` and spans ``length`` elements.
    """
    pid = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    at = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), dtype=tl.int32)
    for number in range(passes):
        # A different part each pass, so that no multiprocessor reads what it has just read; .cg bypasses L1.
        begin = (pid + number * 37) % programs * first
        end = tl.minimum(begin + length, numel)
        for start in range(begin, end, stride):
            acc += tl.load(x + start + at, mask=start + at < end, other=0, cache_modifier=".cg")
    tl.store(sums + pid, tl.sum(acc, 0))


def read(
    x: Tensor, sums: Tensor, passes: int = 1, *, block: int = 8192, num_warps: int = 8, chunked: bool = False
) -> None:
    """Read all of a tensor, one or more times.

    Args:
        x: [numel] int32, contiguous.
        sums: [programs] int32, receives partial sums, one per program.
        passes: how often; from the second pass on, what fits comes from the L2 cache.
        block: elements that a program reads at once, a power of two.
        num_warps: warps per program.
        chunked: whether each program reads one part of the tensor from beginning to end; else neighbouring programs
            read neighbouring blocks.
    """
    check_device(x)
    numel, programs = x.numel(), sums.numel()
    part = triton.cdiv(triton.cdiv(numel, programs), block) * block
    shape = (part, block, part) if chunked else (block, programs * block, numel)
    read_kernel[(programs,)](x, sums, numel, passes, *shape, BLOCK=block, num_warps=num_warps)


@jit
def follow_kernel(chain, end, steps):
    """Follow chain [numel] int32 from its first entry: each read gives the index of the next; end [1] int32, out."""
    at = tl.load(chain, cache_modifier=".cg")
    for _ in range(1, steps):
        at = tl.load(chain + at, cache_modifier=".cg")
    tl.store(end, at)


def follow(chain: Tensor, end: Tensor, steps: int) -> None:
    """Read memory in a chain in which each address is known only after the previous read: pure latency.

    Args:
        chain: [numel] int32, from ``chained``.
        end: [1] int32, receives the last value read.
        steps: number of reads.
    """
    check_device(chain)
    follow_kernel[(1,)](chain, end, steps, num_warps=1)


def chained(numel: int, steps: int, device: torch.device) -> Tensor:
    """Return [numel] int32: a chain of ``steps`` evenly spaced entries, from 0 through all of them and back to 0.

    The order is random, so that no read can be predicted.
    """
    order = (torch.randperm(steps - 1, device=device) + 1) * (numel // steps)
    order = torch.cat([order.new_zeros(1), order])
    chain = torch.zeros(numel, dtype=torch.int32, device=device)
    chain[order] = order.roll(-1).int()
    return chain


def partial_sums(device: torch.device, each: int = 4) -> Tensor:
    """Return memory for the sums of ``read``, for ``each`` programs per multiprocessor."""
    return torch.zeros(each * multiprocessors(device), dtype=torch.int32, device=device)
