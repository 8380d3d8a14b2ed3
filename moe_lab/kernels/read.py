"""Read memory and keep almost nothing of it: the fastest that bytes can come in."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.kernels._device import check_device


@triton.jit
def read_kernel(x, sums, numel, BLOCK: tl.constexpr):
    """Add up every BLOCK-th part of x [numel] int32, as many programs as there are sums [programs] int32."""
    pid = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(pid * BLOCK, numel, tl.num_programs(0) * BLOCK):
        acc += tl.load(x + start + at, mask=start + at < numel, other=0)
    tl.store(sums + pid, tl.sum(acc, 0))


def read(x: Tensor, sums: Tensor) -> None:
    """Read all of a tensor.

    Args:
        x: [numel] int32, contiguous.
        sums: [programs] int32, receives partial sums; a program each.
    """
    check_device(x)
    read_kernel[(sums.numel(),)](x, sums, x.numel(), BLOCK=8192, num_warps=8)


@triton.jit
def follow_kernel(chain, end, steps):
    """From chain[0] on, read what the last read says; the places are in chain [numel] int32; end [1] int32, out."""
    at = tl.load(chain, cache_modifier=".cg")
    for _ in range(1, steps):
        at = tl.load(chain + at, cache_modifier=".cg")
    tl.store(end, at)


def follow(chain: Tensor, end: Tensor, steps: int) -> None:
    """Read one place of memory after the other, each known only when the last was read: nothing but latency.

    Args:
        chain: [numel] int32, of ``chained``.
        end: [1] int32, receives the last value read.
        steps: reads.
    """
    check_device(chain)
    follow_kernel[(1,)](chain, end, steps, num_warps=1)


def chained(numel: int, steps: int, device: torch.device) -> Tensor:
    """Return [numel] int32 whose places, evenly spread, lead from 0 through all ``steps`` of them and back to 0.

    In random order, so that no read can be foreseen.
    """
    order = (torch.randperm(steps - 1, device=device) + 1) * (numel // steps)
    order = torch.cat([order.new_zeros(1), order])
    chain = torch.zeros(numel, dtype=torch.int32, device=device)
    chain[order] = order.roll(-1).int()
    return chain


def partial_sums(device: torch.device) -> Tensor:
    """Return memory for the sums of ``read``: several programs a multiprocessor."""
    count = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return torch.zeros(4 * count, dtype=torch.int32, device=device)
