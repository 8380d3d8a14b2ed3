# SPDX-License-Identifier: Apache-2.0
"""The tiles of a call: those that it is given, else the tuned ones in the package, else the backend's own."""

from collections.abc import Callable
from functools import cache

import torch

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.kernels.tile import Tile, fit
from moe_lab.spec import configs, formats, plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

Tiles = Tile | tuple[Tile, Tile]


@cache
def align_of(name: str) -> Callable[..., Alignment]:
    """Return an align algorithm; UserError if there is none of that name, or something that it needs is missing."""
    # Cached, because a look-up reads the plugin's source, and every call needs it.
    found: Callable[..., Alignment] = plugins.load("align", name).align
    return found


@cache
def _gpu(index: int) -> str:
    return torch.cuda.get_device_name(index)


def gpu(device: torch.device | None = None) -> str | None:
    """Return the name of the GPU, of the current one if no device is given; None on the CPU."""
    if device.type != "cuda" if device else not torch.cuda.is_available():
        return None
    return _gpu(device.index if device and device.index is not None else torch.cuda.current_device())


def tuned(backend: str, problem: MoEProblem, device: torch.device | None = None) -> tuple[Tile, Tile] | None:
    """Return the tuned tiles of w13 and w2 for the sizes, the format and the GPU, if there are any."""
    found = configs.tiles(backend, problem.routed, gpu(device))  # shared experts change the tiles little
    return (Tile(*found[0]), Tile(*found[1])) if found else None


def choose(
    backend: str, problem: MoEProblem, device: torch.device, given: Tiles | None, default: Tile
) -> tuple[Tile, Tile]:
    """Return the tiles of w13 and w2, with as many stages as fit the device.

    Args:
        backend: name of the plugin.
        problem: sizes and format.
        device: where the kernels run.
        given: a tile for both, or one for each; None = tuned, else ``default``.
        default: the backend's own.

    Raises:
        UserError: the two differ in block_m.
    """
    pair = given if isinstance(given, tuple) else (given, given) if given else tuned(backend, problem, device)
    w13, w2 = pair or (default, default)
    if w13.block_m != w2.block_m:
        raise UserError(
            f"w13 and w2 share their rows: their tiles need the same block_m, not {w13.block_m} and {w2.block_m}."
        )
    # Given and default tiles may ask for more shared memory than the GPU has.
    itemsize = formats.get(problem.format).activation_bits // 8  # widened weights are as large as tokens
    return fit(w13, itemsize, device), fit(w2, itemsize, device)


def quantised_tile(problem: MoEProblem) -> Tile:
    """Return a tile for weights with scales: of products in 8 bits by the tokens, as vLLM 0.33 has it without a file.

    Of widened weights by the mean rows of an expert; not measured yet. They take registers, which limits the columns.
    """
    known, mean_rows = formats.get(problem.format), problem.rows_useful / problem.E
    if known.weight_bits == 4 and known.activation_block:
        if mean_rows <= 24:
            return Tile(16 if mean_rows <= 8 else 32, 64, 128, 1, 4, 5)
        return Tile(64 if mean_rows <= 96 else 128, 64, 128, 8, 4, 4)  # wider ones spill
    if not known.activation_block:
        if mean_rows <= 24:
            return Tile(16 if mean_rows <= 8 else 32, 64, 128, 1, 4, 4)
        return Tile(64 if mean_rows <= 96 else 128, 128, 64, 8, 8, 3)
    # With scales after the sum, no block of weights limits a tile of many rows: it may be as wide as in bf16.
    M = problem.M
    if problem.format != "fp8_block" and problem.rows_useful > 96 * problem.E:
        return Tile(128, 256, 128, 8, 8, 3)
    return Tile(16 if M <= 64 else 64, 64 if M <= 8 else 128, 128, 1 if M <= 16 else 32, 4, 4 if M <= 4 else 3)
