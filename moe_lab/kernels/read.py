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


def partial_sums(device: torch.device) -> Tensor:
    """Return memory for the sums of ``read``: several programs a multiprocessor."""
    count = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return torch.zeros(4 * count, dtype=torch.int32, device=device)
