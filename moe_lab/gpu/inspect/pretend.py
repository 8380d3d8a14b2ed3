# SPDX-License-Identifier: Apache-2.0
"""Makes this process pretend to have a GPU that the machine lacks, so that launchers choose as they would there.

What they ask torch and Triton's driver is answered from ``spec.architectures``. Tensors have shapes but no memory: they
are on torch's ``meta`` device and claim to be on the GPU. Only for a process of its own: nothing is undone.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from moe_lab.gpu.kernels import _nvrtc
from moe_lab.spec.architectures import Card

DEVICE = torch.device("cuda", 0)


class OnGpu(Tensor):
    """A tensor without memory that claims to be on the GPU, with an address that is aligned like a real one."""

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def data_ptr(self) -> int:
        """Return its address in memory that begins at 0."""
        return int(self.storage_offset()) * self.element_size()  # whether it is a multiple of 16 decides the kernel


class Tensors(TorchFunctionMode):
    """While it is active, tensors made on the GPU, and what torch makes of them, are ``OnGpu``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch on the meta device."""
        with torch._C.DisableTorchFunction():  # else the call would come back here
            given, named = tree_map(_without_gpu, (args, kwargs or {}))
            return tree_map(_on_gpu, func(*given, **named))


def _without_gpu(value: Any) -> Any:
    if isinstance(value, OnGpu):
        return value.as_subclass(Tensor)
    return torch.device("meta") if value == DEVICE else value


def _on_gpu(value: Any) -> Any:
    return value.as_subclass(OnGpu) if type(value) is Tensor and value.is_meta else value


class Driver:
    """Triton's driver for a GPU on which nothing is launched."""

    def __init__(self, card: Card):
        """Take the card."""
        self._target = (
            GPUTarget("hip", card.arch, card.warp_threads)
            if card.amd
            else GPUTarget("cuda", int(card.arch.removeprefix("sm_")), card.warp_threads)
        )
        self.utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": card.smem_block_bytes})

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return self._target

    def get_current_device(self) -> int:
        """Return the number of the only device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return a stream, which nothing uses."""
        return 0


def gpu(card: Card, tuned: bool = True) -> None:
    """Make torch and Triton answer as if on a card, from now on; not ``tuned`` hides the name that tiles go by."""
    driver.set_active(Driver(card))
    capability = _capability(card)
    name = card.name if tuned else ""
    properties = SimpleNamespace(
        name=name,
        multi_processor_count=card.multiprocessors,
        shared_memory_per_block_optin=card.smem_block_bytes,
        L2_cache_size=card.l2_bytes,
        gcnArchName=card.arch,
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_current_stream_capturing": False,
        "current_stream": SimpleNamespace(cuda_stream=0),
        "get_device_capability": capability,
        "get_device_name": name,
        "get_device_properties": properties,
        "current_device": 0,
    }
    for asked, answer in answers.items():
        setattr(torch.cuda, asked, lambda device=None, answer=answer: answer)
    # By which launchers tell AMD from NVIDIA.
    torch.version.hip, torch.version.cuda = ("pretended", None) if card.amd else (None, "pretended")
    able = not card.amd and capability >= _nvrtc.LEAST_CAPABILITY
    _nvrtc._usable = cache(lambda device: able)  # without cuda.core too, as nothing is launched


def _capability(card: Card) -> tuple[int, int]:
    """Return the compute capability as torch states it: gfx942 is (9, 4), gfx90a (9, 0)."""
    if card.amd:
        return int(card.arch[3]), int(card.arch[4])
    return divmod(int(card.arch.removeprefix("sm_")), 10)
