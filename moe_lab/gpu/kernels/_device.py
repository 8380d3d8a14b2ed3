# SPDX-License-Identifier: Apache-2.0
"""What the kernels need to know about the device they run on."""

import functools
import os

import torch
import triton
from torch import Tensor

from moe_lab.spec import architectures
from moe_lab.spec.errors import UserError


def check_device(x: Tensor) -> None:
    """Raise UserError for a CPU tensor without the interpreter, or bfloat16 in it (its products are wrong there)."""
    if x.is_cuda:
        return
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            "Triton kernels need a GPU; to run them on the CPU set TRITON_INTERPRET=1 before starting Python."
        )
    if x.dtype == torch.bfloat16:
        raise UserError("Triton's CPU interpreter computes bfloat16 wrongly; use fp32 or fp16 on the CPU.")


def check_contiguous(**inputs: Tensor) -> None:
    """Raise UserError if an input is not contiguous: the kernels would read the wrong elements."""
    for name, tensor in inputs.items():
        if not tensor.is_contiguous():
            raise UserError(f"{name} {list(tensor.shape)} is not contiguous; call .contiguous() first.")


@functools.cache
def shared_memory_bytes(device: int) -> int:
    """Return the shared memory (LDS) that one thread block may use on GPU ``device``."""
    return int(triton.runtime.driver.active.utils.get_device_properties(device)["max_shared_mem"])


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return the multiprocessors (compute units) of a GPU; 2 for the CPU, where programs run in turn."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 2


@functools.cache
def dies(device: torch.device) -> int:
    """Return among how many dies (XCDs) a GPU of AMD deals thread blocks in turn; 1 for all others."""
    if device.type != "cuda" or not is_hip():
        return 1
    arch = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    card = next((card for card in architectures.cards() if card.arch == arch), None)
    # A partition of a GPU, and a smaller model, has dies of the same size.
    return max(1, multiprocessors(device) * card.dies // card.multiprocessors) if card else 1


@functools.cache
def l2_cache_bytes(device: torch.device) -> int:
    """Return the size of a GPU's L2 cache."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


@functools.cache
def can_launch_early(device: torch.device) -> bool:
    """Return whether a kernel can start before the one that it depends on has ended (programmatic dependent launch)."""
    if device.type != "cuda" or is_hip() or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    # Triton 3.4 has the calls, but with a signature that its own compiler refuses.
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return torch.cuda.get_device_capability(device)[0] >= 9 and version >= (3, 5)


def is_hip() -> bool:
    """Return whether this torch build is for ROCm."""
    return torch.version.hip is not None
