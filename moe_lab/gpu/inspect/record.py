# SPDX-License-Identifier: Apache-2.0
"""Records what a launcher launches, without launching it, and compiles it."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import triton
from triton.runtime.cache import get_cache_manager
from triton.runtime.jit import JITFunction

from moe_lab.gpu.inspect.cuda import CudaLaunch, Source
from moe_lab.gpu.inspect.disassemble import sass
from moe_lab.gpu.kernels import _nvrtc
from moe_lab.spec.ranges import Mark


@dataclass(frozen=True)
class TritonLaunch:
    """One launch of a Triton kernel.

    Attributes:
        kernel: the Triton function.
        arguments: positional arguments.
        options: keyword arguments: constants, num_warps, num_stages.
        grid: thread blocks.
        stage: range around the launch, empty for none.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    grid: tuple[int, ...]
    stage: str

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return str(self.kernel.fn.__name__)

    def constants(self) -> str:
        """Return the constants that it is compiled for, numbers, texts and flags, as ``name=value``."""
        pairs = zip(self.kernel.params, self.arguments, strict=False)
        placed = {p.name: v for p, v in pairs if p.is_constexpr and isinstance(v, int | str)}
        # Floats, such as the limit of an activation, are the same in every launch.
        given = {k: v for k, v in self.options.items() if not isinstance(v, float) and not k.startswith("num_")}
        given = placed | given
        return " ".join(f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in given.items())

    def compiled(self, code: Path) -> dict[str, Any]:
        """Compile it for the driver's GPU, as Triton would before launching it, and list its machine code.

        Triton caches compiled kernels on disk, here with their listings, so the same launch is not compiled twice.

        Args:
            code: folder for the listing, under the name that is in the row.

        Returns:
            Columns of a row: ``kernel``, ``compiler``, ``num_warps``, ``num_stages``, ``static_smem_bytes`` and
            ``listing``.

        Raises:
            UserError: the code cannot be listed.
            Exception: anything that the compiler raises.
        """
        _with_source(self.kernel)
        made = self.kernel.run(*self.arguments, grid=self.grid, warmup=True, **self.options)
        listing = code / f"{made.hash}.txt"
        if not listing.exists():
            listing.write_text(made.asm["amdgcn"] if "amdgcn" in made.asm else sass(made.asm["cubin"], made.hash))
        return {
            "kernel": made.metadata.name,  # some kernels have a name that says what they are compiled for
            "compiler": f"Triton {triton.__version__}",
            "num_warps": int(made.metadata.num_warps),
            "num_stages": int(made.metadata.num_stages),
            "static_smem_bytes": int(made.metadata.shared),
            "listing": listing.name,
        }


Launch = TritonLaunch | CudaLaunch


def _with_source(kernel: Any) -> None:
    """Write the source of a kernel to a file if it was made while the program ran, so that its lines can be found."""
    known, _ = inspect.getsourcelines(kernel.fn)
    if kernel.src.splitlines()[0].strip() in "".join(known):
        return
    key = hashlib.sha256(kernel.src.encode()).hexdigest()
    file = get_cache_manager(key).put(kernel.src, f"{kernel.fn.__name__}_as_made.py", binary=False)
    kernel.fn.__code__ = kernel.fn.__code__.replace(co_filename=file)
    kernel.starting_line_number = 1


def record(call: Callable[[Mark], object]) -> list[Launch]:
    """Return what a call would launch, without launching it; ``call`` gets the ``mark`` for its stages."""
    launches: list[Launch] = []
    stages = [""]

    @contextmanager
    def mark(stage: str) -> Iterator[None]:
        stages.append(stage)
        yield
        stages.pop()

    def note(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        known = dict(zip(kernel.arg_names, arguments, strict=False)) | options
        shape = grid(known) if callable(grid) else grid
        launches.append(TritonLaunch(kernel, arguments, options, tuple(shape), stages[-1]))

    def note_cuda(kernel: Source, device: Any, grid: int, block: int, shared: int, *rest: Any) -> None:
        launches.append(CudaLaunch(kernel, (grid,), block, shared, stages[-1]))

    # Every launch ends in one of these, whatever grid it has.
    ends = {(JITFunction, "run"): note, (_nvrtc, "compiled"): Source.asked, (_nvrtc, "start"): note_cuda}
    before = {place: getattr(*place) for place in ends}
    try:
        for place, end in ends.items():
            setattr(*place, end)
        call(mark)
    finally:
        for place, end in before.items():
            setattr(*place, end)
    return launches


def told(launch: Launch) -> dict[str, Any]:
    """Return what is known about a launch before it is compiled, as columns of a row."""
    known = {"kernel": launch.name, "stage": launch.stage or None, "grid_blocks": prod(launch.grid)}
    return known | {"constants": launch.constants()}
