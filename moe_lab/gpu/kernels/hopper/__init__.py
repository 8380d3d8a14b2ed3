"""Both GEMMs of the experts on Hopper in one persistent launch of CUDA C++, ``hopper_moe.cu`` and its headers.

What CUDA gives over Triton here: token tiles of any multiple of eight, rows gathered by some warps while others
multiply, and weights that are fetched ahead of the activations they meet.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.kernels._device import l2_cache_bytes, multiprocessors, shared_memory_bytes
from moe_lab.gpu.kernels._nvrtc import id_type, launch
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT

SOURCE = Path(__file__).with_name("hopper_moe.cu")
THREADS = 512
UNIT_ROWS, UNIT_K = 128, 64
GROUP = 8  # rows to which align pads an expert's
MOST_PAIRS = (512, 2048, 8192)  # pairs that a block sorts by itself, instead of being given them sorted


class Shape(NamedTuple):
    """A kernel configuration.

    Attributes:
        units: 1 or 2; a tile has 128 weight rows of each.
        max_n: most tokens of a tile.
        step: tokens to which a tile is padded.
        stages: of the pipeline.
    """

    units: int
    max_n: int
    step: int
    stages: int


def shared_bytes(shape: Shape, E: int, most_pairs: int) -> int:
    """Return the shared memory of a block, as ``layout.cuh`` lays it out; another size does not compile."""
    stage = shape.units * UNIT_ROWS * UNIT_K * 2 + shape.max_n * UNIT_K * 2
    pairs = 2 * (most_pairs + shape.max_n) + 8 if most_pairs else 4 * (shape.stages + 1) * shape.max_n
    return 1024 + shape.stages * (stage + 24) + 4 * (2 * E + 6) + pairs


def sorts_itself(numel: int, E: int, shape: Shape, most_shared: int) -> int:
    """Return for how many pairs the kernel is compiled that sorts so many by itself; 0 where it does not.

    Args:
        numel: pairs.
        E: experts.
        shape: kernel configuration.
        most_shared: bytes of shared memory that a block may have.
    """
    return next((m for m in MOST_PAIRS if numel <= m and shared_bytes(shape, E, m) <= most_shared), 0)


def prepare(w13: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Return both weights as the kernel reads them: [E, units, k / 64, 128, 64], 16-bit, contiguous.

    A unit holds 128 rows; rows past the last are zero. A thread of a warpgroup holds rows r and r + 8 of each 16, so r
    is a gate row and r + 8 its up row in w13; in w2 they, and those 64 rows further on, are neighbouring features.
    The eight 16-byte chunks of row r lie in the order of the 128-byte swizzle, chunk c at c ^ (r % 8).

    Args:
        w13: [E, 2N, K], gate rows then up rows; K and N multiples of 64.
        w2: [E, K, N].
    """
    N = w13.shape[1] // 2
    half, warp, up, lane = torch.meshgrid(
        *(torch.arange(n, device=w13.device) for n in (2, 4, 2, 8)), indexing="ij"
    )  # of the 128 rows of a unit
    units13 = torch.arange(2 * N // UNIT_ROWS, device=w13.device)[:, None]
    rows13 = units13 * 64 + (warp * 16 + lane * 2 + half).flatten() + up.flatten() * N
    units2 = torch.arange(-(-w2.shape[1] // UNIT_ROWS), device=w13.device)[:, None]
    rows2 = units2 * UNIT_ROWS + (warp * 32 + lane * 4 + half * 2 + up).flatten()
    return _units(w13, rows13), _units(w2, rows2)


def _units(w: Tensor, rows: Tensor) -> Tensor:
    """Return w [E, rows, k] as units of the given rows [units, 128]."""
    E, most, k = w.shape
    chunk = torch.arange(8, device=w.device)
    swizzled = chunk[:, None] ^ chunk[None, :]  # [row % 8, place] -> chunk
    inside = (rows < most).flatten()[:, None]
    result = w.new_empty((E, len(rows), k // UNIT_K, UNIT_ROWS, UNIT_K))
    for expert in range(E):  # one at a time, so that no second copy of all weights is needed
        taken = w[expert][rows.clamp(max=most - 1).flatten()] * inside
        chunks = taken.view(len(rows), UNIT_ROWS // 8, 8, k // UNIT_K, 8, 8).permute(0, 3, 1, 2, 4, 5)
        result[expert] = chunks[:, :, :, chunk[:, None], swizzled].reshape(result.shape[1:])
    return result


def keeps_y(y: Tensor) -> bool:
    """Return whether the L2 cache is told to keep rows of y: where all of them leave it little room for the rest.

    Measured on an H200 (docs/kernels.md): 1 to 2 % faster above half of the cache, 1 % slower below.
    """
    return 2 * y.nbytes > l2_cache_bytes(y.device)


@functools.cache
def wgmma(shape: Shape, half: bool) -> str:
    """Return CUDA C++ of ``wgmma<N>`` for each N of a shape, and of ``FOR_EACH_N``."""
    sizes = range(shape.step, shape.max_n + 1, shape.step)
    dtype = "f16" if half else "bf16"
    text = ["template <int N> __device__ inline void wgmma(float*, unsigned long long, unsigned long long);"]
    for n in sizes:
        registers = ", ".join(f"%{i}" for i in range(n // 2))
        outputs = ", ".join(f'"+f"(d[{i}])' for i in range(n // 2))
        text.append(
            f"template <> __device__ inline void wgmma<{n}>"
            "(float* d, unsigned long long a, unsigned long long b) {\n"
            f'asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k16'
            f'.f32.{dtype}.{dtype} {{{registers}}}, %{n // 2}, %{n // 2 + 1}, 1, 1, 1, 0, 0;"\n'
            f': {outputs} : "l"(a), "l"(b)); }}'
        )
    return "\n".join([*text, "#define FOR_EACH_N(X) " + " ".join(f"X({n})" for n in sizes), ""])


def hopper_moe(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    alignment: Alignment | None,
    hidden: Tensor,
    y: Tensor,
    done: Tensor,
    *,
    shape: Shape,
    activation: str,
    phases: tuple[int, int] = (0, 1),
) -> None:
    """Fill ``hidden`` (phase 0: w13 and the activation) and ``y`` (phase 1: w2).

    Args:
        x: [M, K] fp16 or bf16, contiguous.
        w13: of ``prepare``.
        w2: of ``prepare``.
        topk_weights: [M, topk] fp32: only fetched into the L2 cache, for the sum after this.
        topk_ids: [M, topk] int32 or int64, contiguous.
        alignment: with groups of ``GROUP`` rows; None where a block sorts them itself, see ``sorts_itself``.
        hidden: [M * topk, N], out, pair order.
        y: [M * topk, K], out, pair order.
        done: [E + 2] int32, zero before and after the launch; of one launch at a time.
        shape: kernel configuration.
        activation: one of ``activation.ACTIVATIONS``.
        phases: first and last.
    """
    (M, K), E, topk = x.shape, w13.shape[0], topk_ids.shape[1]
    numel, N = M * topk, hidden.shape[1]
    own = 0 if alignment is not None else sorts_itself(numel, E, shape, shared_memory_bytes(x.device.index))
    half, shared = x.dtype == torch.float16, shared_bytes(shape, E, own)
    launch(
        SOURCE,
        "hopper_moe",
        multiprocessors(x.device),
        THREADS,
        *(x, w13, w2, hidden, y, topk_weights, topk_ids, *(alignment or (topk_ids,) * 3), done),
        *(numel, 2 * N, K, K, N, *phases),
        macros=(
            *(("MBLK", shape.units), ("MAX_N", shape.max_n), ("STEP", shape.step), ("STAGES", shape.stages)),
            *(("TOPK", topk), ("E", E), ("MOST_PAIRS", own), ("KEEP_Y", int(keeps_y(y))), ("HALF", int(half))),
            *(("SWIGLUOAI", int(activation == "swigluoai")), ("ALPHA", f"{ALPHA}f"), ("LIMIT", f"{LIMIT}f")),
            *(("ID", id_type(topk_ids)), ("SHARED", shared)),
        ),
        prelude=wgmma(shape, half),
        shared=shared,
        cooperative=True,
    )
