"""Records what a launcher launches, without launching it, and compiles it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import triton
from triton.runtime.cache import get_cache_manager
from triton.runtime.jit import JITFunction

from moe_lab.spec.errors import UserError
from moe_lab.spec.ranges import Mark

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LISTING_S = 60


@dataclass(frozen=True)
class Launch:
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
        # Floats, such as the limit of an activation, are the same in every launch.
        given = {k: v for k, v in self.options.items() if not isinstance(v, float) and not k.startswith("num_")}
        return " ".join(f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in given.items())


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
        launches.append(Launch(kernel, arguments, options, tuple(grid), stages[-1]))

    launch = JITFunction.run  # every launch ends there, whatever grid it has
    JITFunction.run = note
    try:
        call(mark)
    finally:
        JITFunction.run = launch
    return launches


def compiled(launch: Launch, code: Path) -> dict[str, Any]:
    """Compile a launch for the driver's GPU, as Triton would before launching it, and list its machine code.

    Triton caches compiled kernels on disk, here with their listings, so the same launch is not compiled twice.

    Args:
        launch: a recorded launch.
        code: folder for the listing, under the name that is in the row.

    Returns:
        Columns of a row: ``num_warps``, ``num_stages``, ``static_smem_bytes``, ``listing``.

    Raises:
        UserError: the code cannot be listed.
        Exception: anything that the compiler raises.
    """
    made = launch.kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options)
    listing = code / f"{made.hash}.txt"
    if not listing.exists():
        listing.write_text(made.asm["amdgcn"] if "amdgcn" in made.asm else _sass(made))
    return {
        "num_warps": int(made.metadata.num_warps),
        "num_stages": int(made.metadata.num_stages),
        "static_smem_bytes": int(made.metadata.shared),
        "listing": listing.name,
    }


def told(launch: Launch) -> dict[str, Any]:
    """Return what is known about a launch before it is compiled, as columns of a row."""
    known = {"kernel": launch.name, "stage": launch.stage or None, "grid_blocks": prod(launch.grid)}
    return known | {"constants": launch.constants()}


def _sass(made: Any) -> str:
    kept, name = get_cache_manager(made.hash), f"{made.name}.lines.sass"
    if found := kept.get_file(name):
        return Path(found).read_text()
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        listing = _listed("cuobjdump", "-res-usage", "-sass", file.name)
        listing += _listed("nvdisasm", "-gi", "-c", file.name)  # which alone tells the lines of the source
    kept.put(listing, name, binary=False)
    return listing


def _listed(tool: str, *options: str) -> str:
    done = subprocess.run([str(TOOLS / tool), *options], capture_output=True, text=True, timeout=LISTING_S)
    if done.returncode:
        raise UserError(f"The code cannot be listed: {tool} of Triton's wheel failed with code {done.returncode}.")
    return done.stdout
