# SPDX-License-Identifier: Apache-2.0
"""Kernels that do nothing: they time the method of measurement itself, and a launch that waits for another."""

import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from moe_lab.gpu.kernels._device import can_launch_early, check_device
from moe_lab.gpu.kernels._jit import jit


@jit
def nothing_kernel(x, EARLY: tl.constexpr):
    """Do nothing; EARLY: let the next launch begin, and wait for the previous one."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


def launch_nothing(x: Tensor, launches: int = 1, early: bool = False) -> None:
    """Launch the empty kernel on the device of ``x``.

    Args:
        x: any tensor.
        launches: number of kernels, each of which waits for the previous one.
        early: whether each may begin before the previous one has ended, if the GPU can do that.
    """
    check_device(x)
    early = early and can_launch_early(x.device)
    for i in range(launches):
        nothing_kernel[(1,)](x, EARLY=early, num_warps=1, **({"launch_pdl": True} if early and i else {}))
