# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ kernels: compiled by NVRTC on first use, and launched on torch's current stream."""

import ctypes
import functools
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.kernels._device import shared_memory_bytes
from moe_lab.spec.errors import UserError

LEAST_CAPABILITY = (8, 0)  # for __reduce_add_sync and cp.async


def usable(device: torch.device) -> bool:
    """Return whether CUDA C++ kernels run on ``device``: an NVIDIA GPU from Ampere on, with cuda.core installed."""
    return _usable(device.index) if device.type == "cuda" else False


@functools.cache
def _usable(device: int | None) -> bool:
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    try:
        import cuda.core  # noqa: F401
    except ImportError:
        return False
    return True


def launch(
    source: Path,
    name: str,
    grid: int,
    block: int,
    *arguments: Tensor | int,
    macros: tuple[tuple[str, int | str], ...] = (),
    prelude: str = "",
    shared: int = 0,
    cooperative: bool = False,
) -> None:
    """Launch the kernel ``name`` of a file.

    Args:
        source: the .cu file.
        name: an extern "C" kernel.
        grid: thread blocks.
        block: threads per block.
        arguments: tensors (passed as pointers; the first one decides the GPU) and 32-bit integers.
        macros: macros to define; every new combination is compiled once.
        prelude: source to put before that of the file.
        shared: bytes of dynamic shared memory per block.
        cooperative: whether all blocks must run at the same time, or the launch fails.

    Raises:
        UserError: a GPU on which these kernels do not run, or with too little shared memory.
    """
    device = next(a for a in arguments if isinstance(a, Tensor)).device
    kernel = compiled(source, name, device, macros, shared, prelude)
    start(kernel, device, grid, block, shared, cooperative, arguments)


def start(
    kernel: Any,
    device: torch.device,
    grid: int,
    block: int,
    shared: int,
    cooperative: bool,
    arguments: tuple[Tensor | int, ...],
) -> None:
    """Launch a kernel of ``compiled`` on torch's current stream; see ``launch``."""
    from cuda.core import launch as launch_kernel

    values = (a.data_ptr() if isinstance(a, Tensor) else ctypes.c_int(a) for a in arguments)
    config = _config(grid, block, shared, cooperative)
    launch_kernel(_stream(torch.cuda.current_stream(device).cuda_stream), config, kernel, *values)


@functools.cache
def _config(grid: int, block: int, shared: int, cooperative: bool) -> Any:
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=grid, block=block, shmem_size=shared, is_cooperative=cooperative)


@functools.cache
def _stream(handle: int) -> Any:
    from cuda.core import Stream

    return Stream.from_handle(handle)


def id_type(topk_ids: Tensor) -> str:
    """Return the CUDA C++ type of expert ids."""
    return "long long" if topk_ids.dtype == torch.int64 else "int"


def text_of(source: Path) -> str:
    """Return the text of a .cu file with its includes inserted, as NVRTC is given no folder.

    Errors and line information name the file that a line is from.
    """
    parts = [f'#line 1 "{source.name}"\n']
    for number, line in enumerate(source.read_text().splitlines(keepends=True), 1):
        if found := re.match(r'#include "([\w./]+)"$', line):
            header = (source.parent / found[1]).read_text()
            line = f'#line 1 "{found[1]}"\n{header}#line {number + 1} "{source.name}"\n'
        parts.append(line)
    return "".join(parts)


def check(device: torch.device, shared: int) -> None:
    """Raise UserError for a GPU on which these kernels do not run, or with too little shared memory for a block."""
    if not usable(device):
        raise UserError("CUDA C++ kernels need an NVIDIA GPU of compute capability 8.0 or later and cuda-core.")
    if shared > shared_memory_bytes(device.index):
        raise UserError(f"A thread block needs {shared} bytes of shared memory, more than this GPU has for one.")


def architecture(device: torch.device) -> str:
    """Return what a kernel is compiled for."""
    major, minor = torch.cuda.get_device_capability(device)
    return "sm_90a" if major == 9 else f"sm_{major}{minor}"  # sm_90 lacks the instructions of Hopper alone


def cubin(text: str, architecture: str, macros: tuple[tuple[str, int | str], ...], lines: bool = False) -> Any:
    """Return what NVRTC makes of CUDA C++; ``lines``: with line information, which does not change the code."""
    from cuda.core import Program, ProgramOptions

    defined = [(key, str(value)) for key, value in macros]
    options = ProgramOptions(std="c++17", arch=architecture, define_macro=defined or None, lineinfo=lines)
    return Program(text, "c++", options).compile("cubin")


@functools.cache
def compiled(
    source: Path,
    name: str,
    device: torch.device,
    macros: tuple[tuple[str, int | str], ...],
    shared: int,
    prelude: str = "",
) -> Any:
    """Return a kernel that is ready to launch with ``shared`` bytes of dynamic shared memory; see ``launch``."""
    from cuda.bindings import driver
    from cuda.core import Device

    check(device, shared)
    Device(device.index).set_current()
    kernel = cubin(prelude + text_of(source), architecture(device), macros).get_kernel(name)
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    handle = driver.CUkernel(int(kernel.handle))
    (error,) = driver.cuKernelSetAttribute(attribute, shared, handle, driver.CUdevice(device.index))
    if error:
        raise UserError(f"The driver refuses {shared} bytes of shared memory per thread block: {error}.")
    return kernel
