# SPDX-License-Identifier: Apache-2.0
"""Routing rules of ``moe_lab.gpu.routing.route`` in one kernel: a program holds a few rows of logits in registers.

How it chooses: a score becomes a 32-bit code, the smaller the better, whose low bits are replaced by the expert's id.
So codes are distinct, and one minimum gives both score and expert. The next choice is the least code above the last;
with differences that wrap around this is a plain minimum too, and nothing has to be marked as taken. If the replaced
bits could matter (two successive codes agree in all other bits, and some replaced bits were set), the choice is
repeated with all bits. A row is held by one warp, so no warp waits for another.

Ties: the lower expert id is chosen first. NaN scores rank first, as in ``torch.topk``, and make the weights NaN.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.routing import Routing, check_route
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import Router

MOST_EXPERTS = 1024
TILE = 512  # entries per program, if it has several rows
MOST_ROWS = 32  # per program
PROGRAMS = 2048  # four for each of the four schedulers of 128 multiprocessors
OUT = tl.constexpr(0xFFFFFFFF)  # greater than the code of any score


@jit
def descending_bits(x, ID_BITS: tl.constexpr):
    """Return fp32 as uint32: the greater x, the smaller the code; NaN is least, 0 and -0 are equal.

    2 ** ID_BITS codes are left after that of -inf.
    """
    bits = (x + 0.0).to(tl.int32, bitcast=True)  # -0 + 0 = 0
    code = (bits ^ (~(bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True)
    # As unsigned numbers: positive NaN, inf .. -inf, negative NaN. The addition wraps the last to the front.
    return tl.add(code, 0x007FFFFF - (1 << ID_BITS), sanitize_overflow=False)


@jit
def two_best(a, a2, b, b2):
    """Merge the two greatest of two sets; NaN is greatest."""
    return tl.maximum(a, b, tl.PropagateNan.ALL), tl.maximum(tl.minimum(a, b), tl.maximum(a2, b2))


@jit
def take_best(code, column):
    """Return (column of the least code of each row [rows], codes without that entry)."""
    least = tl.min(code, axis=1)[:, None]
    best = tl.min(tl.where(code == least, column, 0x7FFFFFFF), axis=1)
    return best, tl.where(column == best[:, None], OUT, code)


@jit
def in_kept_group(ranking, SIZE: tl.constexpr, TOPK_GROUPS: tl.constexpr, BLOCK_G: tl.constexpr):
    """Return which of ``ranking`` [rows, BLOCK_G * width] are in the best groups, by the sum of a group's two best."""
    rows: tl.constexpr = ranking.shape[0]
    width: tl.constexpr = ranking.shape[1] // BLOCK_G
    grouped = tl.reshape(ranking, [rows, BLOCK_G, width])
    score, second = tl.reduce((grouped, tl.full(grouped.shape, float("-inf"), tl.float32)), 2, two_best)
    if SIZE > 1:
        score += second
    group = tl.arange(0, BLOCK_G)[None, :]
    code = descending_bits(score, 0)  # groups beyond GROUPS tie with the worst, and have higher ids
    for _ in range(TOPK_GROUPS):
        code = take_best(code, group)[1]
    kept = tl.broadcast_to((code == OUT)[:, :, None], [rows, BLOCK_G, width])
    return tl.reshape(kept, [rows, BLOCK_G * width])


@jit
def choose_by_all_bits(code, expert, slot, TOPK: tl.constexpr):
    """Return the experts of the TOPK least (code, expert) of each row, in ``slot`` order."""
    ids = tl.zeros([code.shape[0], slot.shape[1]], tl.int32)
    for k in range(TOPK):
        best, code = take_best(code, expert)
        ids = tl.where(slot == k, best[:, None], ids)
    return ids


@jit
def least_after(codes, last):
    """Return the least of each row's codes [rows, columns] above ``last`` [rows]; of all codes if all bits are set."""
    rest = (0xFFFFFFFF - last)[:, None]
    step = tl.min(tl.add(codes, rest, sanitize_overflow=False), axis=1)  # of codes - last - 1 in 32 bits
    return tl.add(last, step + 1, sanitize_overflow=False)


@jit
def choose(code, expert, slot, bits, TOPK: tl.constexpr, ID_BITS: tl.constexpr, EXACT: tl.constexpr):
    """Return the experts of the TOPK least (code, expert) of each row, in ``slot`` order.

    EXACT: whether the low ID_BITS of the scores' ``bits`` are zero.
    """
    low: tl.constexpr = (1 << ID_BITS) - 1
    packed = (code & (0xFFFFFFFF - low)) | expert.to(tl.uint32)
    ids = tl.zeros([code.shape[0], slot.shape[1]], tl.int32)
    last = tl.full([code.shape[0]], 0xFFFFFFFF, tl.uint32)
    close = last != last
    for k in range(TOPK):
        least = least_after(packed, last)
        ids = tl.where(slot == k, (least & low).to(tl.int32)[:, None], ids)
        close |= (least >> ID_BITS) == (last >> ID_BITS)
        last = least
    if not EXACT:
        close |= (least_after(packed, last) >> ID_BITS) == (last >> ID_BITS)
        if tl.max(close.to(tl.int32), axis=0) > 0:
            lost = tl.max(tl.max(bits & low, axis=1), axis=0)
            if lost > 0:
                ids = choose_by_all_bits(code, expert, slot, TOPK)
    return ids


@jit
def router_kernel(
    logits,  # [M, E]
    bias,  # [E], read only if BIAS
    topk_weights,  # [M, TOPK] fp32, out
    topk_ids,  # [M, TOPK] int32, out
    M,
    scaling,
    E: tl.constexpr,
    TOPK: tl.constexpr,
    SCORE: tl.constexpr,  # "softmax", "sigmoid", or "chosen": softmax over the chosen
    RENORMALISE: tl.constexpr,
    BIAS: tl.constexpr,
    GROUPS: tl.constexpr,
    TOPK_GROUPS: tl.constexpr,
    ID_BITS: tl.constexpr,  # 2 ** ID_BITS >= E
    BLOCK_M: tl.constexpr,
    BLOCK_G: tl.constexpr,  # >= GROUPS
    BLOCK_S: tl.constexpr,  # >= E / GROUPS
    BLOCK_K: tl.constexpr,  # >= TOPK
):
    """Route BLOCK_M tokens."""
    size: tl.constexpr = E // GROUPS
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK_G * BLOCK_S)[None, :]
    expert = column
    valid = column < E
    if size != BLOCK_S and GROUPS > 1:  # groups are BLOCK_S apart in the tile
        expert = column // BLOCK_S * size + column % BLOCK_S
        valid = (column % BLOCK_S < size) & (expert < E)
    x = tl.load(logits + row * E + expert, mask=(row < M) & valid, other=float("-inf")).to(tl.float32)

    # Logits have the same order as their softmax and sigmoid, so neither is needed to compare them.
    by_score: tl.constexpr = BIAS or GROUPS > 1
    if SCORE == "softmax":
        top = tl.max(x, axis=1)[:, None]
        total = tl.sum(tl.exp(x - top), axis=1)[:, None]
    ranking = x
    if by_score:
        ranking = tl.sigmoid(x) if SCORE == "sigmoid" else tl.exp(x - top) / total
        if BIAS:
            ranking += tl.load(bias + expert, mask=valid, other=0.0).to(tl.float32)
        ranking = tl.where(valid, ranking, float("-inf"))
    if GROUPS > 1:
        valid &= in_kept_group(ranking, size, TOPK_GROUPS, BLOCK_G)
    code = tl.where(valid, descending_bits(ranking, ID_BITS), OUT)
    slot = tl.arange(0, BLOCK_K)[None, :]
    exact: tl.constexpr = logits.dtype.element_ty != tl.float32 and not by_score
    ids = choose(code, expert, slot, ranking.to(tl.int32, bitcast=True), TOPK, ID_BITS, exact)

    mask = (row < M) & (slot < TOPK)
    chosen = tl.load(logits + (row * E + ids), mask=mask, other=float("-inf")).to(tl.float32)
    if SCORE == "sigmoid":
        weights = tl.sigmoid(chosen)
    elif SCORE == "softmax":
        weights = tl.exp(chosen - top) / total
    else:
        weights = tl.exp(chosen - tl.max(chosen, axis=1)[:, None])
        weights /= tl.sum(weights, axis=1)[:, None]
    if RENORMALISE:
        whole = tl.sum(weights, axis=1)[:, None]
        weights /= tl.where(whole < 1e-20, 1e-20, whole)
    at = row * TOPK + slot
    tl.store(topk_weights + at, weights * scaling, mask=mask)
    tl.store(topk_ids + at, ids, mask=mask)


def fused_route(logits: Tensor, router: Router, topk: int, bias: Tensor | None = None) -> Routing:
    """Apply a model's routing rule, as ``moe_lab.gpu.routing.route`` does, in one launch.

    If scores are compared (with a bias or with groups), they are this kernel's, which may differ from torch's in the
    last bits: two experts that nearly tie may change places.

    Args:
        logits: [M, E] fp32, fp16 or bf16, E up to ``MOST_EXPERTS``; scored in fp32. Copied if not contiguous.
        router: the rule.
        topk: experts per token.
        bias: [E], added to the score for the choice only; required if ``router.bias``.

    Returns:
        Weights fp32 and ids int32, each [M, topk]; the experts of a token are distinct and in descending order of the
        score that chose them, equal scores in ascending order of the id.

    Raises:
        UserError: what ``route`` refuses, another dtype, or more experts than the kernel supports.
    """
    check_route(logits, router, topk, bias)
    M, E = logits.shape
    if E > MOST_EXPERTS or logits.dtype not in DTYPES.values():
        raise UserError(
            f"The fused router has no kernel for {logits.dtype} logits of {E} experts; use fp32, fp16 or bf16 and at "
            f"most {MOST_EXPERTS} experts, or moe_lab.gpu.routing.route."
        )
    check_device(logits)
    weights = torch.empty((M, topk), dtype=torch.float32, device=logits.device)
    ids = torch.empty((M, topk), dtype=torch.int32, device=logits.device)
    if M == 0:
        return Routing(weights, ids)
    logits, options = logits.contiguous(), launch_options(router, M, E, topk)
    added = bias.contiguous() if router.bias and bias is not None else logits
    router_kernel[(triton.cdiv(M, options["BLOCK_M"]),)](logits, added, weights, ids, M, router.scaling, **options)
    return Routing(weights, ids)


def launch_options(router: Router, M: int, E: int, topk: int) -> dict[str, int | bool | str]:
    """Return the constants of ``router_kernel`` and its warps.

    One warp per program, so that it holds whole rows. A tile of 512 entries gives each lane 16-byte loads and
    independent rows to work on, and leaves registers for as many programs as a multiprocessor can hold; with few tokens
    it has fewer rows, so that there are at least ``PROGRAMS`` programs.
    """
    chosen = router.score == "softmax_topk"
    groups = 1 if chosen else router.groups
    by_score = not chosen and (router.bias or groups > 1)
    block_g, block_s = triton.next_power_of_2(groups), triton.next_power_of_2(E // groups)
    rows = max(1, min(MOST_ROWS, TILE // (block_g * block_s), M // PROGRAMS))
    # Softmax over the chosen equals their renormalised softmax, if the greatest of all is among them.
    chosen = chosen or (router.score == "softmax" and router.renormalise and not by_score)
    return {
        "E": E,
        "TOPK": topk,
        "SCORE": "chosen" if chosen else router.score,
        "RENORMALISE": router.renormalise and not chosen,
        "BIAS": by_score and router.bias,
        "GROUPS": groups,
        "TOPK_GROUPS": router.topk_groups,
        "ID_BITS": (E - 1).bit_length(),
        "BLOCK_M": 1 << (rows.bit_length() - 1),
        "BLOCK_G": block_g,
        "BLOCK_S": block_s,
        "BLOCK_K": triton.next_power_of_2(topk),
        "num_warps": 1,
    }
