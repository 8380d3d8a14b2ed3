# SPDX-License-Identifier: Apache-2.0
"""Pairs sorted by expert, one product of torch per expert, and an activation in Triton between the two."""

import torch
import triton
import triton.language as tl

INFO = {
    "kind": "experts",
    "about": "pairs sorted by expert, a product of torch each, activation in Triton",
    "needs": ["torch", "triton"],
    "hardware": "any that Triton runs on",
    "formats": ["bf16", "fp16", "fp32"],
    "cpu_formats": ["fp16", "fp32"],
    "activations": ["silu"],
}


@triton.jit
def silu_and_mul_kernel(both, hidden, N, BLOCK: tl.constexpr):
    """Write hidden [rows, N] = silu(gate) * up of both [rows, 2N], gate then up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < N
    gate = tl.load(both + row * 2 * N + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * N + N + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(hidden + row * N + column, gate / (1 + tl.exp(-gate)) * up, mask=mask)


def prepare(w13, w2):
    """Return w13 [E, K, 2N] and w2 [E, N, K]: called once, so that each product reads its weights in their order."""
    return w13.transpose(1, 2).contiguous(), w2.transpose(1, 2).contiguous()


def experts(x, w13, w2, topk_weights, topk_ids, *, problem, mark):
    """Return y [M, K] in the dtype of x [M, K]; the weights as ``prepare`` returns them, topk_* [M, topk]."""
    if problem.apply_router_weight_on_input:  # topk is 1 then
        x, topk_weights = (x * topk_weights).to(x.dtype), torch.ones_like(topk_weights)
    pairs, N = topk_ids.numel(), problem.N
    with mark("align"):
        ids, order = topk_ids.reshape(-1).sort(stable=True)
        sizes = torch.bincount(ids, minlength=problem.E).tolist()  # waits for the GPU: no CUDA graph can hold this
        rows = x[order // problem.topk].split(sizes)
    with mark("w13"):
        both = torch.cat([part @ w for part, w in zip(rows, w13, strict=True)])
    with mark("act"):
        hidden = x.new_empty(pairs, N)
        if pairs:
            silu_and_mul_kernel[(pairs, triton.cdiv(N, 256))](both, hidden, N, BLOCK=256)
    with mark("w2"):
        out = torch.cat([part @ w for part, w in zip(hidden.split(sizes), w2, strict=True)])
    with mark("combine"):
        y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        y.index_add_(0, order // problem.topk, out * topk_weights.reshape(-1)[order, None])
        return y.to(x.dtype)
