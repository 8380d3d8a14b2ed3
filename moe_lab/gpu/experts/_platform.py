# SPDX-License-Identifier: Apache-2.0
"""What the kernels of other projects ask about the machine, answered for the device at hand."""

from types import SimpleNamespace

import torch


def cuda() -> bool:
    """Return whether the device is an NVIDIA GPU."""
    return torch.cuda.is_available() and torch.version.hip is None


def rocm() -> bool:
    """Return whether torch is built for AMD GPUs."""
    return torch.version.hip is not None


def capability() -> tuple[int, int]:
    """Return the compute capability of the current NVIDIA GPU, (0, 0) without one."""
    return torch.cuda.get_device_capability() if cuda() else (0, 0)  # below any minimum that they ask for


def current_platform() -> SimpleNamespace:
    """Return a stand-in for vLLM's ``current_platform`` with what its kernel files ask of it."""

    # vLLM writes a capability as (9, 0) or as 90.
    def pair(wanted: tuple[int, int] | int) -> tuple[int, int]:
        return divmod(wanted, 10) if isinstance(wanted, int) else wanted

    return SimpleNamespace(
        is_cuda=cuda,
        is_rocm=rocm,
        is_xpu=lambda: False,
        is_cpu=lambda: not torch.cuda.is_available(),
        is_cuda_alike=torch.cuda.is_available,
        is_device_capability=lambda wanted, device_id=0: capability() == pair(wanted),
        has_device_capability=lambda wanted, device_id=0: capability() >= pair(wanted),
        is_device_capability_family=lambda wanted, device_id=0: capability()[0] == pair(wanted)[0],
    )


def swaps_operands(block_m: int, block_n: int) -> bool:
    """Return whether vLLM swaps the operands of a tile: compute capability 9.0, few rows and many columns."""
    # The same rule as in vLLM, or its tuned tiles would not be measured as vLLM runs them.
    return capability() == (9, 0) and block_m < 64 and block_n >= 64
