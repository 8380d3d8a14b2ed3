"""Print the cycles that each phase of the cooperative align takes, mean over its thread blocks, L2 cold.

python benchmarks/cooperative_phases.py    # needs an NVIDIA GPU
"""

import torch

from moe_lab.gpu.align import cooperative, workspace
from moe_lab.gpu.align.cooperative import MOST_BLOCKS, PHASES, fill, plan
from moe_lab.gpu.bench.clock import read_flush
from moe_lab.gpu.routing import synthetic

print(f"{'M':>6} {'threads':>7} {'items':>5} {'blocks':>6} " + " ".join(f"{p:>8}" for p in (*PHASES, "slowest")))
for M in (256, 1024, 4096, 16384, 65536):
    ids = synthetic("uniform", M, 256, 8, device="cuda").topk_ids
    out, chosen = workspace(cooperative, ids, 64, 256), plan(ids.numel(), 256)
    assert chosen is not None
    runs = []
    for _ in range(9):
        clocks = torch.zeros(MOST_BLOCKS, 8, dtype=torch.int64, device="cuda")
        read_flush(ids.device)()
        fill(ids, 64, 256, out, ids, False, False, clocks)
        runs.append(clocks[: chosen.blocks, : len(PHASES) + 1].double())
    each = torch.stack(runs).diff(dim=2).mean(1).median(0).values.tolist()
    slowest = torch.stack([r[:, -1] - r[:, 0] for r in runs]).amax(1).median().item()
    print(
        f"{M:>6} {chosen.threads:>7} {chosen.items:>5} {chosen.blocks:>6} "
        + " ".join(f"{c:>8.0f}" for c in [*each, slowest])
    )
