# SPDX-License-Identifier: Apache-2.0
"""Our own pipeline for Hopper in CUDA C++: both GEMMs and the activation in one persistent launch, then combine.

A few tokens with weights of four bits take one launch for all of it, combine included (``kernels.hopper.few``).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment, auto, buffers
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.formats import AnyWeights, Quantised, apart, dense
from moe_lab.gpu.kernels._device import check_contiguous, shared_memory_bytes
from moe_lab.gpu.kernels._nvrtc import usable
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.hopper import (
    GROUP,
    Shape,
    eight_bits,
    few,
    given_bytes,
    hopper_moe,
    scratch,
    shared_bytes,
    sorts_itself,
)
from moe_lab.gpu.kernels.hopper.prepare import STEP_BYTES
from moe_lab.gpu.kernels.hopper.prepare import prepare as prepare_units
from moe_lab.gpu.kernels.hopper.widened import widened
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "CUDA C++: w13, activation and w2 in one persistent launch, tokens padded to 8 or 16; combine",
    "needs": ["torch", "triton", "cuda.core"],
    "install": "pip install cuda-core",
    "hardware": "NVIDIA SM90",
    "formats": ["fp16", "bf16", "fp8_block", "int4_w4a16", "int8", "int8_w8a16", "mxfp4", "nvfp4"],
    "cpu_formats": [],
    "activations": ["silu", "swigluoai"],
    "biases": True,
    "multiple_of": 64,
    "split": True,
    "share": True,
    "rows": True,
    "cuda_graph": True,
    "source": "moe_lab",
}

SHARED_BYTES = 232448  # most that a block of compute capability 9.0 can have


def runs_on(device: torch.device) -> bool:
    """Return whether a device has the instructions of the kernel."""
    return usable(device) and torch.cuda.get_device_capability(device)[0] == 9


def takes(problem: MoEProblem) -> bool:
    """Return whether the kernel supports a problem's format and sizes."""
    columns = _columns(problem.format)
    known = problem.format in ("fp16", "bf16", "fp8_block") or widened(problem.format)
    return known and not problem.K % columns and not problem.N % columns


def _columns(format: str) -> int:
    """Return what K and N must be multiples of: the numbers in STEP_BYTES of a row of tokens."""
    return STEP_BYTES if format == "fp8_block" else STEP_BYTES // 2


def prepare(w13: AnyWeights, w2: AnyWeights) -> tuple[Tensor, Tensor]:
    """Return both weights in the order in which the kernel reads them; see ``kernels.hopper.prepare``.

    Raises:
        UserError: sizes that the kernel does not support.
    """
    numbers = apart(w13)[0]
    columns = _columns(numbers.format if isinstance(numbers, Quantised) else "")
    K, N = w13.shape[2], w2.shape[2]
    if K % columns or N % columns:
        raise UserError(f"hopper needs K and N to be multiples of {columns}, not {K} and {N}; use grouped.")
    return prepare_units(w13, w2)


def experts(
    x: Tensor | Quantised,
    w13: Tensor,
    w2: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    problem: MoEProblem,
    mark: Mark,
    shape: Shape | None = None,
    split: bool = False,
    own_sort: bool = True,
    share: float = 1.0,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x, see ``moe_lab.gpu.experts``; topk_ids may be int64.

    x may be quantised already, in ``fp8_block``: y is then in the format's dtype. Rows that came from another rank with
    their scales behind them (``kernels.hopper.given_bytes``) are read where they lie.

    ``shape`` is a configuration of ``hopper_moe``, None = ``default_shape``. ``split`` launches w13 and w2 separately,
    so that each can be profiled by itself. Without ``own_sort``, align sorts the pairs even if the kernel could. Each
    of these three is about ``hopper_moe``, which is then taken where ``few`` would be. With a ``share`` below 1, ids
    may be -1.

    Raises:
        UserError: a dtype or GPU that the kernel does not support, or an input that is not contiguous.
    """
    given = 0
    if isinstance(x, Quantised):
        as_read = problem.format == "fp8_block" and not problem.apply_router_weight_on_input
        given = given_bytes(x) if as_read else 0
        x = x.values if given else dense(x, DTYPES[problem.dtype])
    if not given:
        check_contiguous(x=x)
    check_contiguous(w13=w13, w2=w2, topk_weights=topk_weights, topk_ids=topk_ids)
    dtype = DTYPES[problem.dtype] if given else x.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        raise UserError(f"hopper has no {problem.dtype} kernels; choose fp16 or bf16, or the backend grouped.")
    if widened(problem.format) and dtype != torch.bfloat16:
        raise UserError(f"hopper multiplies weights in {problem.format} by bf16 tokens only; use grouped for fp16.")
    if not runs_on(x.device):
        raise UserError("hopper needs an NVIDIA GPU of compute capability 9.0; use fused_moe or grouped here.")
    pairs = problem.rows_useful
    if not pairs:
        return torch.empty_like(x, dtype=dtype)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    most_shared = shared_memory_bytes(x.device.index)
    small = few.default_shape(problem, most_shared) if own_sort and not (shape or split) else None
    if small:
        with mark("align+w13+act+w2+combine"):
            memory = zeros(few.memory_words(problem), x.device, (pairs, problem.N))
            return few.few(x, w13, w2, topk_weights, topk_ids, memory, problem, small)
    shape = shape or default_shape(problem, share)
    possible = sorts_itself(pairs, problem.E, shape, most_shared, problem.format) > 0
    own_sort = possible and own_sort
    alignment = None if own_sort else _align(topk_ids, problem, mark)
    hidden, quantised = scratch(x, pairs, problem.E, problem.N, shape, problem.format)
    rows = x.new_empty((pairs, problem.K), dtype=dtype)
    flags = zeros(problem.E + 3, x.device, ())
    arguments = (x, w13, w2, topk_weights, topk_ids, alignment, hidden, rows, flags)
    options: dict[str, Any] = {"shape": shape, "format": problem.format, "activation": problem.activation}
    options |= {"biases": problem.biases, "given": given}
    run = partial(hopper_moe, *arguments, N=problem.N, quantised=quantised, **options)
    before = "quant+" if quantised is not None and not given else ""
    if split:
        with mark(f"{before}w13+act"):
            run(phases=(0, 0))
        with mark("w2"):
            run(phases=(1, 1))
    else:
        with mark(f"{before}{'align+' if own_sort else ''}w13+act+w2"):
            run()
    with mark("combine"):
        return combine(rows, problem.topk, topk_weights, topk_ids=topk_ids if share < 1 else None)


def _align(topk_ids: Tensor, problem: MoEProblem, mark: Mark) -> Alignment:
    with mark("align"):
        size, use = auto.scratch(problem.rows_useful, problem.E), (problem.rows_useful, problem.E)
        memory = buffers(topk_ids, GROUP, problem.E)._replace(scratch=zeros(size, topk_ids.device, use))
        return auto.align(topk_ids, GROUP, problem.E, out=memory)


def block_m(problem: MoEProblem) -> int:
    """Return the multiple to which an expert's rows are padded."""
    shape = default_shape(problem)
    # As the first factor of wgmma, tokens come in 64 rows; as the second, in a step of columns: 8 where ``few`` has 8.
    return 64 if shape.rows else shape.step


def default_shape(problem: MoEProblem, share: float = 1.0) -> Shape:
    """Return a configuration by the tokens and the mean rows of an expert, as measured in docs/kernels.md.

    ``share`` is that of the pairs whose expert is here.
    """
    mean_rows, fp8 = share * problem.rows_useful / problem.E, problem.format == "fp8_block"
    if widened(problem.format):
        shape = _widened_shape(problem.M, mean_rows, problem.format)
    elif problem.M <= 4:
        shape = Shape(1, 8, 8, 10 if fp8 else 9)
    elif mean_rows <= 16:
        shape = Shape(2, 32, 8, 5)
    elif mean_rows <= 40:
        shape = Shape(2, 64, 8, 4)
    elif fp8:
        rows = Shape(2, 128, 128, 3, rows=True)
        fits = shared_bytes(rows, problem.E, 0, problem.format) <= SHARED_BYTES  # up to 1,174 experts
        shape = rows if mean_rows > 80 and fits and not problem.biases else Shape(2, 96, 16, 4)
    elif mean_rows <= 96:
        shape = Shape(2, 128, 16, 4)
    else:
        # One tile per expert at 128 rows, two equal ones at 256, three at 512.
        shape = Shape(2, 160 if mean_rows <= 144 else 144 if mean_rows <= 288 else 176, 16, 4)
    while shared_bytes(shape, problem.E, 0, problem.format) > SHARED_BYTES:  # many experts' tables need the room
        fewer = shape._replace(stages=shape.stages - 1)
        shape = fewer if fewer.stages > 4 else shape._replace(max_n=shape.max_n - shape.step)
    return shape


def _widened_shape(M: int, mean_rows: float, format: str) -> Shape:
    eight = format in eight_bits.FORMATS  # twice the bytes a stage
    if M <= 2 or (eight and M <= 4):
        return Shape(1, 8, 8, 12 if eight else 20)
    if M <= 8:
        return Shape(2, 16, 8, 6 if eight else 9)
    if mean_rows <= 16:
        return Shape(2, 32, 8, 5 if eight else 8)
    if mean_rows <= 40 or format == "int8":  # whose gathering threads have registers for so many rows
        return Shape(2, 48, 8, 4 if eight else 6)  # with 64 ptxas would let every product end before the next
    return Shape(1, 128, 16, 4 if eight else 5)


_ARENA: dict[torch.device, Tensor] = {}
_STREAMS: dict[tuple[Any, ...], Tensor] = {}
ARENA_ENTRIES = 1 << 23  # of few tokens, up to 25,000 a captured call
ALIGNED = 64


def zeros(size: int, device: torch.device, use: tuple[int, ...]) -> Tensor:
    """Return [size] int32 zeros for a kernel that leaves them ready for its next call of the same use and size.

    There is one piece per stream, since launches of a stream follow one another, and one per captured call, since a
    graph may run beside anything. Pieces are zeroed before the capture, so that replays need no memset.
    """
    key = device, torch.cuda.current_stream(device).cuda_stream, use, size
    capturing = torch.cuda.is_current_stream_capturing()
    if not capturing and key in _STREAMS:
        return _STREAMS[key]
    left, wanted, size = _ARENA.get(device), size, -(-size // ALIGNED) * ALIGNED
    if left is None or left.numel() < size:
        if capturing:  # too late to zero it beforehand: this graph has a memset
            return torch.zeros(wanted, dtype=torch.int32, device=device)
        left = torch.zeros(max(size, ARENA_ENTRIES), dtype=torch.int32, device=device)
    taken, _ARENA[device] = left[:wanted], left[size:]
    if not capturing:
        _STREAMS[key] = taken
    return taken
