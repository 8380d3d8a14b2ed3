# SPDX-License-Identifier: Apache-2.0
"""The whole layer of a few pairs in one launch of CUDA C++, ``few.cu``, for weights of four bits."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.kernels._device import multiprocessors
from moe_lab.gpu.kernels._nvrtc import id_type, launch
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT
from moe_lab.gpu.kernels.hopper import four_bits
from moe_lab.spec.problem import MoEProblem

SOURCE = Path(__file__).with_name("few.cu")
ITEMS = 8  # of a stage, and warps of a team
FETCHERS = 4  # warps
MOST_PAIRS, MOST_TOKENS = 32, 8  # a lane of a warp for each pair; a column of an mma for each token
MOST_BYTES = 96_000_000  # of weights; above, hopper_moe is quicker (docs/kernels.md)


class Shape(NamedTuple):
    """A kernel configuration; more about each in ``few.cu``.

    Attributes:
        together: neighbouring slabs, of 16 weight rows of w13, that share a stage: 1, 2, 4 or 8.
        together2: the same of w2.
        teams: of eight warps that multiply.
        copiers: warps that copy weights.
        stages: of the pipeline, each of eight items of 16 weight rows by 128 columns; a multiple of teams and copiers.
    """

    together: int
    together2: int
    teams: int
    copiers: int
    stages: int


def _columns(M: int) -> int:
    """Return for how many tokens the kernel is compiled: a power of two."""
    return 1 << (M - 1).bit_length()


def _warps(shape: Shape) -> int:
    """Return the warps of a block that multiply."""
    return shape.teams * ITEMS


def shared_bytes(problem: MoEProblem, shape: Shape) -> int:
    """Return the bytes of shared memory of a block, as ``ring.cuh`` lays it out; another size does not compile."""
    columns = _columns(problem.M)
    tables = 4 * _warps(shape) * columns * 64 + MOST_PAIRS * (8 * columns + 64 + 4 + 8) + 16 + shape.stages * 16
    stages = shape.stages * four_bits.unit_bytes(problem.format)
    pairs = 1 + min(MOST_PAIRS, columns * problem.topk)  # one of zeros
    operands = -(-problem.K // 128) * columns + -(-problem.N // 128) * pairs
    return -(-tables // 128) * 128 + stages + operands * 256


def memory_words(problem: MoEProblem) -> int:
    """Return the numbers of 32 bits of ``memory``: tickets, and hidden activations twice, as in ``handed.cuh``."""
    return 64 * (1 + 2 * problem.rows_useful * -(-problem.N // 128))


def default_shape(problem: MoEProblem, most_shared: int) -> Shape | None:
    """Return a configuration, None where the kernel does not do the problem, or is not the quicker one.

    Measured on an H100 (docs/kernels.md).

    Args:
        problem: sizes and format; K and N are multiples of 64.
        most_shared: bytes of shared memory that a block may have.
    """
    if problem.rows_useful > MOST_PAIRS or problem.M > MOST_TOKENS or not four_bits.widened(problem.format):
        return None
    units = (problem.rows13 // 128) * -(-problem.K // 128) + -(-problem.K // 128) * -(-problem.N // 128)
    weights = min(problem.rows_useful, problem.E) * units * four_bits.unit_bytes(problem.format)
    shape = Shape(together=2, together2=1, teams=2, copiers=2, stages=4)
    return shape if weights <= MOST_BYTES and shared_bytes(problem, shape) <= most_shared else None


def few(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    memory: Tensor,
    problem: MoEProblem,
    shape: Shape,
) -> Tensor:
    """Return the layer's output [M, K] bf16 of a problem that has a ``default_shape``.

    Args:
        x: [M, K] bf16, contiguous, on a GPU of compute capability 9.0.
        w13: [E, bytes] uint8, of ``prepare``.
        w2: [E, bytes] uint8, of ``prepare``.
        topk_weights: [M, topk] fp32, contiguous.
        topk_ids: [M, topk] int32 or int64, contiguous; negative where a pair has no expert here.
        memory: [memory_words] int32, zeros before the first launch, then what it leaves; for one launch at a time and
            always the same problem and blocks.
        problem: sizes, format, activation and whether there are biases.
        shape: kernel configuration.
    """
    blocks, columns, shared = multiprocessors(x.device), _columns(problem.M), shared_bytes(problem, shape)
    y = torch.empty_like(x)
    launch(
        SOURCE,
        "hopper_few",
        blocks,
        32 * (_warps(shape) + shape.copiers + FETCHERS + -(-columns * shape.together // 4)),
        *(x, w13, w2, memory, y, topk_weights, topk_ids),
        problem.rows_useful,
        macros=(
            *(("COLUMNS", columns), ("STAGES", shape.stages), ("TEAMS", shape.teams), ("COPIERS", shape.copiers)),
            *(("TOGETHER", shape.together), ("TOGETHER2", shape.together2), ("BLOCKS", blocks)),
            *(("HIDDEN", problem.K), ("INTERMEDIATE", problem.N), ("TOPK", problem.topk), ("E", w13.shape[0])),
            *(*four_bits.macros(problem.format), ("BIASES", int(problem.biases))),
            *(("FP8", 0), ("HALF", 0), ("KEEP_Y", 0)),
            *(("SWIGLUOAI", int(problem.activation == "swigluoai")), ("ALPHA", f"{ALPHA}f"), ("LIMIT", f"{LIMIT}f")),
            *(("ID", id_type(topk_ids)), ("SHARED", shared)),
        ),
        shared=shared,
        cooperative=True,
    )
    return y
