# SPDX-License-Identifier: Apache-2.0
"""Both GEMMs of the experts on Hopper in one persistent launch of CUDA C++, ``hopper_moe.cu`` and its headers.

What CUDA gives over Triton here: token tiles of any multiple of eight, rows gathered by some warps while others
multiply, and weights that are fetched ahead of the activations they meet.
"""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.kernels._device import l2_cache_bytes, multiprocessors, shared_memory_bytes
from moe_lab.gpu.kernels._nvrtc import id_type, launch
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT
from moe_lab.gpu.kernels.hopper.prepare import STEP_BYTES, UNIT_ROWS
from moe_lab.gpu.kernels.hopper.widened import macros, unit_bytes, widened

SOURCE = Path(__file__).with_name("hopper_moe.cu")
THREADS = 512
OUT_BYTES = 512 + 64  # between rows of a tile's sums
GROUP = 8  # rows to which align pads an expert's
BLOCK_QUANTISES = 128  # groups of 128 numbers of x that every block quantises for itself, at most
MOST_PAIRS = (512, 2048, 8192)  # pairs that a block sorts by itself, instead of being given them sorted


class Shape(NamedTuple):
    """A kernel configuration.

    Attributes:
        units: 1 or 2; a tile has 128 weight rows of each.
        max_n: most tokens of a tile.
        step: tokens to which a tile is padded.
        stages: of the pipeline.
        rows: tokens are the rows of a product and weights its columns, not the other way round; in ``fp8_block``.
    """

    units: int
    max_n: int
    step: int
    stages: int
    rows: bool = False


def shared_bytes(shape: Shape, E: int, most_pairs: int, format: str = "bf16") -> int:
    """Return the shared memory of a block, as ``layout.cuh`` lays it out; another size does not compile."""
    fp8, panels = format == "fp8_block", 1 + widened(format)
    unit = unit_bytes(format) if panels == 2 else UNIT_ROWS * STEP_BYTES
    stage = shape.units * unit + panels * shape.max_n * STEP_BYTES
    ring = shape.stages + 1 + 2 * shape.rows
    pairs = 2 * (most_pairs + shape.max_n) + 8 if most_pairs else 0 if shape.rows else 4 * ring * shape.max_n
    tables = shape.stages * 16 + ring * (36 if shape.rows else 8) + 4 * (2 * E + 4) + pairs
    if format == "int8":
        tables += 4 * ring * shape.max_n
    if fp8:
        places = -(-shape.max_n // 16) * 16
        groups = 3 - shape.units
        tables += shape.stages * 4 * (groups * places + 4)
        tables += shape.max_n * OUT_BYTES + 16 if shape.rows else 8 * places + shape.max_n * shape.units * 64
        tables = -(-tables // 16) * 16
    return shape.stages * stage + tables


def row_bytes(features: int, group: int = STEP_BYTES) -> int:
    """Return the bytes of a row of activations in e4m3: its numbers, then its groups' scales in their own sectors."""
    return features + -(-features // (8 * group)) * 32


def given_bytes(x: Quantised) -> int:
    """Return the bytes from a row of x [M, K] in e4m3 to the next, if scales lie as ``row_bytes`` says, else 0."""
    values, scales, K = x.values, x.scales, x.shape[-1]
    begins, apart = values.data_ptr(), values.stride(0)
    in_place = scales.data_ptr() == begins + K and 4 * scales.stride(0) == apart and scales.stride(1) == 1
    return apart if in_place and apart >= row_bytes(K) and not (begins | apart) % 16 else 0


def scratch(x: Tensor, pairs: int, E: int, N: int, shape: Shape, format: str) -> tuple[Tensor, Tensor | None]:
    """Return room for hidden activations and for quantised tokens, ``hidden`` and ``quantised`` of ``hopper_moe``.

    In ``fp8_block`` both are uint8: quantised [copies * M, row_bytes(K)], and hidden [M * topk, row_bytes(N)] in pair
    order, where a group is what a tile of w13 makes: 64 features for each of its units. With ``shape.rows`` hidden is
    [token tiles * max_n, N + N / 32] instead, each tile as w2 reads it: for each 128 features its rows, swizzled, then
    their scales. If there are few tokens, each block quantises them for itself, into its own copy;
    x in e4m3 needs none. In ``int8`` both are uint8 too, rows of bf16, with what ``integers.cuh`` has behind them.
    """
    M, K = x.shape
    fp8, integers = format == "fp8_block", format == "int8"
    if not (fp8 or integers):
        return x.new_empty((pairs, N)), None
    copies = multiprocessors(x.device) if M * (K // (STEP_BYTES // (1 + integers))) <= BLOCK_QUANTISES else 1
    if integers:
        sizes = ((pairs, 2 * N + N // 64 * 16 * (3 - shape.units)), (copies * M, 2 * K + 16))
        return x.new_empty(sizes[0], dtype=torch.uint8), x.new_empty(sizes[1], dtype=torch.uint8)
    if x.dtype.itemsize == 1:
        copies = 0
    rows = (pairs, row_bytes(N, 64 * shape.units))
    if shape.rows:  # of all token tiles that there may be, with their scales
        rows = ((-(-pairs // shape.max_n) + E) * shape.max_n, N + N // STEP_BYTES * 4)
    sizes = (rows, (copies * M, row_bytes(K)))
    hidden, quantised = (x.new_empty(size, dtype=torch.uint8) for size in sizes)
    return hidden, quantised


def sorts_itself(numel: int, E: int, shape: Shape, most_shared: int, format: str = "bf16") -> int:
    """Return for how many pairs the kernel is compiled that sorts so many by itself; 0 where it does not.

    Args:
        numel: pairs.
        E: experts.
        shape: kernel configuration.
        most_shared: bytes of shared memory that a block may have.
        format: of the weights.
    """
    return next((m for m in MOST_PAIRS if numel <= m and shared_bytes(shape, E, m, format) <= most_shared), 0)


def keeps_y(y: Tensor) -> bool:
    """Return whether the L2 cache is told to keep rows of y: where all of them leave it little room for the rest.

    Measured on an H200 (docs/kernels.md): 1 to 2 % faster above half of the cache, 1 % slower below. Where tokens
    are the rows of a product nothing is kept: that is 1.6 to 2.7 % faster from 2048 to 16384 on an H100.
    """
    return 2 * y.nbytes > l2_cache_bytes(y.device)


@functools.cache
def wgmma(shape: Shape, dtype: str) -> str:
    """Return CUDA C++ of ``wgmma<N>`` for each N of a shape, and of ``FOR_EACH_N``.

    ``wgmma_first<N>`` does not add to what was there before; ``wgmma_of<N>`` has its first factor in registers.

    Args:
        shape: kernel configuration.
        dtype: of the operands in PTX: ``f16``, ``bf16`` or ``e4m3``.
    """
    sizes = [shape.max_n] if shape.rows else range(shape.step, shape.max_n + 1, shape.step)
    names = {"wgmma": ("+", 1), "wgmma_first": ("=", 0)}
    arguments = "(float* d, unsigned a, unsigned b)"
    kind, layout = ("k32", "") if dtype == "e4m3" else ("k16", ", 0, 0")
    text = [f"template <int N> __device__ inline void {name}{arguments};" for name in names]
    text.append("template <int N> __device__ inline void wgmma_of(float* d, const unsigned (&a)[4], unsigned b);")
    for n, (name, (use, adds)) in itertools.product(sizes, names.items()):
        registers = ", ".join(f"%{i}" for i in range(n // 2))
        outputs = ", ".join(f'"{use}f"(d[{i}])' for i in range(n // 2))
        a, b, high = (f"%{n // 2 + i}" for i in range(3))
        text.append(
            f"template <> __device__ inline void {name}<{n}>{arguments} {{\n"
            f'asm volatile("{{ .reg .b64 a, b; mov.b64 a, {{{a}, {high}}}; mov.b64 b, {{{b}, {high}}};"\n'
            f'"wgmma.mma_async.sync.aligned.m64n{n}{kind}.f32.{dtype}.{dtype}"\n'
            f'"{{{registers}}}, a, b, {adds}, 1, 1{layout}; }}"\n'
            f': {outputs} : "r"(a), "r"(b), "n"(0x40000040)); }}'
        )
    if dtype == "bf16":
        text += [_of_registers(n) for n in sizes]
    return "\n".join([*text, "#define FOR_EACH_N(X) " + " ".join(f"X({n})" for n in sizes), ""])


def _of_registers(n: int) -> str:
    sums = ", ".join(f"%{i}" for i in range(n // 2))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(n // 2))
    first = ", ".join(f"%{n // 2 + i}" for i in range(4))
    inputs = ", ".join(f'"r"(a[{i}])' for i in range(4))
    return (
        f"template <> __device__ inline void wgmma_of<{n}>(float* d, const unsigned (&a)[4], unsigned b) {{\n"
        f'asm volatile("{{ .reg .b64 b; mov.b64 b, {{%{n // 2 + 4}, %{n // 2 + 5}}};"\n'
        f'"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16"\n'
        f'"{{{sums}}}, {{{first}}}, b, 1, 1, 1, 0; }}"\n'
        f': {outputs} : {inputs}, "r"(b), "n"(0x40000040)); }}'
    )


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
    N: int,
    quantised: Tensor | None = None,
    given: int = 0,
    shape: Shape,
    format: str,
    biases: bool,
    activation: str,
    phases: tuple[int, int] = (0, 1),
) -> None:
    """Fill ``hidden`` (phase 0: w13 and the activation) and ``y`` (phase 1: w2).

    Args:
        x: [M, K] fp16 or bf16, contiguous; or e4m3, see ``given``.
        w13: of ``prepare``.
        w2: of ``prepare``.
        topk_weights: [M, topk] fp32: only fetched into the L2 cache, for the sum after this.
        topk_ids: [M, topk] int32 or int64, contiguous.
        alignment: with groups of ``GROUP`` rows; None where a block sorts them itself, see ``sorts_itself``.
        hidden: of ``scratch``, out.
        y: [M * topk, K], out, pair order.
        done: [E + 3] int32, zero before and after the launch; of one launch at a time.
        N: intermediate size.
        quantised: of ``scratch``, out: x as it is multiplied; None where that is x itself.
        given: ``given_bytes`` of x that is quantised already; 0 = it is not.
        shape: kernel configuration.
        format: of the weights.
        biases: whether the weights have some.
        activation: one of ``activation.ACTIVATIONS``.
        phases: first and last.
    """
    (M, K), E, topk = x.shape, w13.shape[0], topk_ids.shape[1]
    numel, fp8 = M * topk, format == "fp8_block"
    own = 0 if alignment is not None else sorts_itself(numel, E, shape, shared_memory_bytes(x.device.index), format)
    half, shared = y.dtype == torch.float16, shared_bytes(shape, E, own, format)
    launch(
        SOURCE,
        "hopper_moe",
        multiprocessors(x.device),
        THREADS,
        *(x, w13, w2, hidden, y, topk_weights, topk_ids, *(alignment or (topk_ids,) * 3), done),
        x if quantised is None or given else quantised,
        *(numel, 2 * N, K, K, N, given, *phases),
        macros=(
            *(("MBLK", shape.units), ("MAX_N", shape.max_n), ("STEP", shape.step), ("STAGES", shape.stages)),
            *(("TOPK", topk), ("E", E), ("MOST_PAIRS", own), ("HALF", int(half))),
            ("KEEP_Y", int(not shape.rows and keeps_y(y))),
            *(("FP8", int(fp8)), ("ROWS", int(shape.rows)), ("BLOCK_QUANTISES", BLOCK_QUANTISES)),
            *(*macros(format), ("BIASES", int(biases))),
            *(("SWIGLUOAI", int(activation == "swigluoai")), ("ALPHA", f"{ALPHA}f"), ("LIMIT", f"{LIMIT}f")),
            *(("ID", id_type(topk_ids)), ("SHARED", shared)),
        ),
        prelude=wgmma(shape, "e4m3" if fp8 else "f16" if half else "bf16"),
        shared=shared,
        cooperative=True,
    )
