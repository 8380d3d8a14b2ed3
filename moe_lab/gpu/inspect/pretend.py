"""Makes this process believe in a GPU that is not there, so that launchers choose for it as they would on it.

What they ask of torch and of Triton's driver is answered from ``spec.architectures``. Tensors have shapes and no
memory: they are of torch's ``meta`` device and say that they lie on the GPU. For a process of its own: nothing is
undone.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from moe_lab.spec.architectures import Card

DEVICE = torch.device("cuda", 0)


class OnGpu(Tensor):
    """A tensor without memory that says it lies on the GPU, at an address as aligned as a real one's."""

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def data_ptr(self) -> int:
        """Return where it begins in memory that begins at 0."""
        return int(self.storage_offset()) * self.element_size()


class Tensors(TorchFunctionMode):
    """Inside of it, tensors that are made on the GPU, and what torch makes of them, are ``OnGpu``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one call of torch on the meta device."""
        with torch._C.DisableTorchFunction():
            given, named = tree_map(_without_gpu, (args, kwargs or {}))
            return tree_map(_on_gpu, func(*given, **named))


def _without_gpu(value: Any) -> Any:
    if isinstance(value, OnGpu):
        return value.as_subclass(Tensor)
    return torch.device("meta") if value == DEVICE else value


def _on_gpu(value: Any) -> Any:
    return value.as_subclass(OnGpu) if type(value) is Tensor and value.is_meta else value


class Driver:
    """Triton's driver of a GPU that nothing is launched on."""

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
        """Return a stream, which nothing is put on."""
        return 0


def gpu(card: Card, tuned: bool = True) -> None:
    """Let torch and Triton answer as on a card, from now on; not ``tuned``: by a name that no tiles are tuned for."""
    driver.set_active(Driver(card))
    capability = _capability(card)
    name = card.name if tuned else ""
    properties = SimpleNamespace(name=name, multi_processor_count=card.multiprocessors)
    answers: dict[str, Any] = {
        "get_device_capability": capability,
        "get_device_name": name,
        "get_device_properties": properties,
        "current_device": 0,
    }
    for asked, answer in answers.items():
        setattr(torch.cuda, asked, lambda device=None, answer=answer: answer)
    torch.version.hip = "pretended" if card.amd else None


def _capability(card: Card) -> tuple[int, int]:
    """Return what torch calls the capability: gfx942 is (9, 4), gfx90a (9, 0)."""
    if card.amd:
        return int(card.arch[3]), int(card.arch[4])
    return divmod(int(card.arch.removeprefix("sm_")), 10)
