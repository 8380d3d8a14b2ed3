# SPDX-License-Identifier: Apache-2.0
"""Rows grouped by expert with room in between: the row of each pair, and the kernel that puts rows there.

Contiguous: the rows of an expert begin at a multiple of the tile. Masked: every expert has room for as many rows as
there are tokens, and a count says how many are valid. Scales of rows are stored as DeepGEMM reads them: those of all
rows for one group of features, then those for the next.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.activation import constants
from moe_lab.gpu.kernels.quantise import GROUP, e4m3_of, numbers_of, program, stored_as

MOVED = 2048  # numbers of a row that a program moves


@jit
def contiguous_kernel(
    sorted_token_ids,  # [capacity] int32
    expert_ids,  # [rows / TILE] int32
    num_tokens_post_padded,  # [1] int32
    place,  # [pairs] int32, out
    groups,  # [rows] int32, out
    capacity,
    pairs,
    rows,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Process BLOCK rows."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < tl.load(num_tokens_post_padded)
    pair = tl.load(sorted_token_ids + row, mask=inside & (row < capacity), other=pairs)
    tl.store(place + pair, row, mask=inside & (pair < pairs))
    tl.store(groups + row, tl.load(expert_ids + row // TILE, mask=inside, other=-1), mask=row < rows)


def contiguous(alignment: Alignment, tile: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Return the row of each pair [pairs] int32, and the expert of each row [rows] int32, -1 after the last tile."""
    ids = alignment.sorted_token_ids
    rows = alignment.expert_ids.numel() * tile
    place, groups = ids.new_empty(pairs), ids.new_empty(rows)
    contiguous_kernel[(triton.cdiv(rows, 1024),)](
        *alignment, place, groups, ids.numel(), pairs, rows, TILE=tile, BLOCK=1024
    )
    return place, groups


@jit
def masked_kernel(
    topk_ids,  # [pairs] int32
    place,  # [pairs] int32, out
    counts,  # [E] int32, out
    pairs,
    room,
    BLOCK: tl.constexpr,
):
    """Number the pairs of one expert; the first one also marks those that have none."""
    expert = tl.program_id(0)
    count = 0
    for start in range(0, pairs, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        ids = tl.load(topk_ids + pair, mask=pair < pairs, other=0x7FFFFFFF)
        ours = (ids == expert).to(tl.int32)
        tl.store(place + pair, expert * room + count + tl.cumsum(ours, 0) - ours, mask=ours != 0)
        tl.store(place + pair, ids, mask=(ids < 0) & (expert == 0))
        count += tl.sum(ours, 0)
    tl.store(counts + expert, count)


def masked(topk_ids: Tensor, E: int, room: int) -> tuple[Tensor, Tensor]:
    """Return the row of each pair [pairs] int32, from e * room on for expert e, and the rows of each [E] int32.

    Pairs with a negative id have it as their row too.
    """
    pairs = topk_ids.numel()
    place, counts = topk_ids.new_empty(pairs), topk_ids.new_empty(E)
    masked_kernel[(E,)](topk_ids, place, counts, pairs, room, BLOCK=min(1024, triton.next_power_of_2(pairs)))
    return place, counts


@jit
def listed_kernel(
    counts,  # [experts] int32
    place,  # [pairs] int32, out
    experts,
    room,
    pairs,
    EXPERTS: tl.constexpr,  # power of two
    BLOCK: tl.constexpr,
):
    """List the rows of one expert; the last one also marks what is left."""
    expert = tl.program_id(0)
    each = tl.arange(0, EXPERTS)
    every = tl.load(counts + each, mask=each < experts, other=0)
    begin = tl.sum(tl.where(each < expert, every, 0), 0)
    count = tl.sum(tl.where(each == expert, every, 0), 0)
    for start in range(0, count, BLOCK):
        row = start + tl.arange(0, BLOCK)
        tl.store(place + begin + row, expert * room + row, mask=row < count)
    if expert == experts - 1:
        for start in range(begin + count, pairs, BLOCK):
            pair = start + tl.arange(0, BLOCK)
            tl.store(place + pair, -1, mask=pair < pairs)


def listed(counts: Tensor, room: int, pairs: int) -> Tensor:
    """Return the rows that hold something, [pairs] int32 in the order of their experts, and -1 after them.

    ``counts`` [experts] int32 are how many of each expert's ``room`` rows do, all together at most ``pairs``.
    """
    experts, place = counts.numel(), counts.new_empty(pairs)
    listed_kernel[(experts,)](
        counts,
        place,
        experts,
        room,
        pairs,
        EXPERTS=triton.next_power_of_2(experts),
        BLOCK=min(1024, triton.next_power_of_2(room)),
    )
    return place


@jit
def place_rows_kernel(
    x,  # [M, features], or [rows, 2 * features] with an activation
    y,  # [rows, features], out
    scales,  # [rows / room, features / GROUP, room] fp32, out; None = y is not quantised
    place,  # [pairs] int32, negative = nowhere
    pairs,
    features,
    room,
    TOPK: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,  # this and MUL: see activation.constants
    MUL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Place one group of features of BLOCK_ROWS pairs."""
    pair = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    group = tl.program_id(1)
    column = (group * GROUP + tl.arange(0, GROUP))[None, :]
    row = tl.load(place + pair, mask=pair < pairs, other=-1).to(tl.int64)
    real = row >= 0
    mask = real[:, None] & (column < features)
    source = row if ACTIVATION != "none" else (pair // TOPK).to(tl.int64)
    numbers = numbers_of(x, source, column, mask, features, ACTIVATION, MUL, ALPHA, LIMIT)
    if scales is not None:
        numbers, scale = e4m3_of(numbers)
        depth = tl.cdiv(features, GROUP)
        tl.store(scales + (row // room * depth + group) * room + row % room, scale, mask=real)
    tl.store(y + row[:, None] * features + column, numbers.to(y.dtype.element_ty), mask=mask)


@jit
def move_rows_kernel(
    values,  # [M, features] uint8, rows ``stride`` apart
    scales,  # [M, groups] fp32, rows ``scales_stride`` apart
    y,  # [rows, features] uint8, out
    y_scales,  # [rows / room, groups, room] fp32, out
    place,  # [pairs] int32, negative = nowhere
    features,
    groups,
    room,
    stride,
    scales_stride,
    TOPK: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Move BLOCK features of a pair's row, and their scales."""
    pair, block = tl.program_id(0), tl.program_id(1)
    row = tl.load(place + pair).to(tl.int64)
    token = (pair // TOPK).to(tl.int64)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = (row >= 0) & (column < features)
    tl.store(y + row * features + column, tl.load(values + token * stride + column, mask=inside, other=0), mask=inside)
    group = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    inside = (row >= 0) & (group < groups)
    scale = tl.load(scales + token * scales_stride + group, mask=inside, other=0.0)
    tl.store(y_scales + (row // room * groups + group) * room + row % room, scale, mask=inside)


def move_rows(x: Quantised, place: Tensor, rows: int, topk: int, room: int) -> Quantised:
    """Return rows that are in ``fp8_block`` already in the places of their pairs; see ``place_rows``.

    Args:
        x: e4m3 [M, features] with scales [M, features / 128], of both of which rows may lie apart.
        place: [pairs] int32, negative = nowhere.
        rows: number of rows of the result.
        topk: pairs per token.
        room: rows of a block whose scales are stored together.
    """
    check_device(x.values)
    (_, features), groups = x.values.shape, x.scales.shape[1]
    values = x.values.view(torch.uint8)
    y = values.new_empty((rows, features))
    scales = x.scales.new_empty((rows // room, groups, room))
    move_rows_kernel[(place.numel(), triton.cdiv(features, MOVED))](
        *(values, x.scales, y, scales, place, features, groups, room, values.stride(0), x.scales.stride(0)),
        TOPK=topk,
        BLOCK=MOVED,
        GROUP=GROUP,
    )
    return Quantised(x.format, y.view(torch.float8_e4m3fn), scales.transpose(1, 2))


def place_rows(
    x: Tensor, place: Tensor, rows: int, topk: int, *, activation: str = "none", room: int | None = None
) -> Weights:
    """Return the row of x for each pair, or act(gate) * up of it, in the pair's place; other rows are not written.

    Args:
        x: [M, features]; with a gated activation [rows, 2 * features], whose rows are already in their places.
        place: [pairs] int32, negative = nowhere.
        rows: number of rows of the result.
        topk: pairs per token.
        activation: ``none``, or one of ``ACTIVATIONS`` of the problem.
        room: rows of a block whose scales are stored together; None = the result keeps the dtype of x.

    Returns:
        [rows, features] in the dtype of x; with ``room`` in e4m3 with scales [rows / room, room, features / 128] fp32,
        of which rows are adjacent in memory.
    """
    check_device(x)
    acts = constants(activation)
    pairs, features = place.numel(), x.shape[1] // (2 if acts["MUL"] else 1)
    groups = triton.cdiv(features, GROUP)
    y = torch.empty((rows, features), dtype=x.dtype if room is None else stored_as(x), device=x.device)
    scales = None if room is None else x.new_empty((rows // room, groups, room), dtype=torch.float32)
    taken = program(pairs, groups)
    place_rows_kernel[(triton.cdiv(pairs, taken["BLOCK_ROWS"]), groups)](
        *(x, y, scales, place, pairs, features, room or 1),
        TOPK=topk,
        GROUP=GROUP,
        **acts,
        **taken,
    )
    return y if scales is None else Quantised("fp8_block", y.to(torch.float8_e4m3fn), scales.transpose(1, 2))
