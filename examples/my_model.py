# SPDX-License-Identifier: Apache-2.0
"""A small MoE model of one's own, marked so that its profile names layers and stages (docs/my_model.md)."""

import argparse

import torch
from torch import nn
from torch.nn.functional import silu

from moe_lab.gpu.workloads import window
from moe_lab.gpu.workloads.layerwise import marked
from moe_lab.spec import ranges


class Experts(nn.Module):
    """Gated experts, one after the other: slow, but each stage is one line."""

    def __init__(self, K: int, N: int, E: int, mark: ranges.Mark):
        super().__init__()
        self.w13 = nn.Parameter(torch.randn(E, 2 * N, K) / K**0.5)
        self.w2 = nn.Parameter(torch.randn(E, K, N) / N**0.5)
        self.mark = mark

    def forward(self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the sum over the experts of each token: x [M, K], weights and ids [M, topk] -> [M, K]."""
        y = torch.zeros_like(x)
        for expert in range(len(self.w13)):
            tokens, slots = (ids == expert).nonzero(as_tuple=True)
            with self.mark("w13+act"):  # the words for stages: router, align, w13, act, w2, combine
                gate, up = (x[tokens] @ self.w13[expert].T).chunk(2, dim=1)
                h = silu(gate) * up
            with self.mark("w2+combine"):
                y.index_add_(0, tokens, (h @ self.w2[expert].T) * weights[tokens, slots, None])
        return y


class Layer(nn.Module):
    """A router and its experts, with a residual connection."""

    def __init__(self, K: int, N: int, E: int, topk: int, mark: ranges.Mark):
        super().__init__()
        self.gate = nn.Linear(K, E, bias=False)
        self.experts = Experts(K, N, E, mark)
        self.topk = topk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [M, K] after the layer."""
        weights, ids = self.gate(x).softmax(-1).topk(self.topk)
        return x + self.experts(x, weights, ids)


def main(arguments: list[str] | None = None) -> None:
    """Run some steps, those after the warm-up in the window that a profiler waits for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args(arguments)

    mark = ranges.marker(window.range_api())  # NVTX, on ROCm roctx, for `capture torch` record_function
    model = nn.Sequential(*(Layer(512, 256, 8, 2, mark) for _ in range(given.layers))).to(given.device)
    x = torch.randn(given.tokens, 512, device=given.device)
    with torch.no_grad(), marked(model, "sglang", mark):  # a range around every module
        model(x)  # warm-up, outside the window
        with window.profiler_window(given.device):  # cudaProfilerStart and Stop
            for _ in range(given.steps):
                with mark("step"):
                    model(x)


if __name__ == "__main__":
    main()
