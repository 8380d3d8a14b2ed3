"""How long routing takes on a GPU: torch (``route``) against the fused kernel, graph replay, L2 cold, interleaved.

    python benchmarks/router.py                                  every size below
    python benchmarks/router.py --tokens 16 1024 --repetitions 20

Prints median microseconds; the column "empty" is the same method's time for a kernel that does nothing. Every result is
compared with the reference on the GPU before it is timed; a wrong one is named, and the exit status is 1.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from moe_lab.gpu.bench.clock import interleave, quantiles_us, ready
from moe_lab.gpu.kernels.nothing import launch_nothing
from moe_lab.gpu.kernels.router import fused_route
from moe_lab.gpu.routing import Routing, route
from moe_lab.spec.models import MODELS, Router

TOKENS = (1, 16, 64, 256, 1024, 4096, 16384, 32768)
RULES: dict[str, tuple[Router, int, int]] = {  # rule, E, topk
    "softmax 256/8": (Router("softmax"), 256, 8),
    "softmax raw 256/8": (Router("softmax", renormalise=False), 256, 8),
    "softmax 512/10": (Router("softmax"), 512, 10),
    **{n: (MODELS[n].router, MODELS[n].E, MODELS[n].topk) for n in ("qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-120b")},
    **{n: (MODELS[n].router, MODELS[n].E, MODELS[n].topk) for n in ("deepseek-v3", "kimi-k2", "glm-4.5")},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def wrong_rows(result: Routing, logits: Tensor, router: Router, topk: int, bias: Tensor) -> int:
    """Return how many tokens are routed wrong, judged in fp64.

    Experts must be distinct; what ranks them within fp32 rounding of what the reference chose (equal scores may change
    places); and the weights those of the experts.
    """
    ids, reference = result.topk_ids.long(), route(logits, router, topk, bias).topk_ids
    scores = logits.double().softmax(dim=1) if router.score.startswith("softmax") else logits.double().sigmoid()
    ranking = scores + bias if router.bias else logits.double()
    weights = scores.gather(1, ids)
    if router.renormalise or router.score == "softmax_topk":
        weights = weights / weights.sum(dim=1, keepdim=True)
    gap = (ranking.gather(1, ids) - ranking.gather(1, reference)).abs().amax(dim=1)
    repeated = (ids.sort(dim=1).values.diff(dim=1) == 0).any(dim=1)
    unlike = ~((result.topk_weights - weights * router.scaling).abs().amax(dim=1) <= 3e-6)  # NaN too
    return int(((gap > 1e-6) | repeated | unlike).sum())


def calls(name: str, M: int, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the two implementations on one random input, after comparing them.

    Raises:
        ValueError: the fused kernel is wrong.
    """
    router, E, topk = RULES[name]
    generator = torch.Generator(device).manual_seed(M)
    logits = torch.randn(M, E, device=device, generator=generator).to(dtype)
    bias = torch.randn(E, device=device, generator=generator) * 0.05
    wrong = wrong_rows(fused_route(logits, router, topk, bias), logits, router, topk, bias)
    if wrong > M // 1000:  # two groups may nearly tie
        raise ValueError(f"{name} M={M} {dtype}: {wrong} tokens are routed wrong")
    arguments = logits, router, topk, bias
    return {"torch": partial(route, *arguments), "fused": partial(fused_route, *arguments)}


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS, metavar="M")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE", help=", ".join(RULES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repetitions", type=int, default=50)
    options = parser.parse_args()
    device, failed = torch.device("cuda", torch.cuda.current_device()), False
    say(f"{'rule':>18} {'dtype':>5} {'M':>6} {'empty':>7} {'torch':>8} {'fused':>8} {'ratio':>6}")
    for name in options.rules:
        for dtype in options.dtypes:
            for M in options.tokens:
                try:
                    made = calls(name, M, DTYPES[dtype], device)
                except Exception as error:  # whatever it is, the other sizes are still measured
                    say(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
                    failed = True
                    continue
                made["empty"] = partial(launch_nothing, torch.empty(1, device=device))
                steps = {key: ready(call, "graph", device) for key, call in made.items()}
                times, _ = interleave(steps, options.repetitions, device)
                us = {k: quantiles_us(t)["median_us"] for k, t in times.items()}
                figures = f"{us['empty']:7.2f} {us['torch']:8.2f} {us['fused']:8.2f} {us['torch'] / us['fused']:6.1f}"
                say(f"{name:>18} {dtype:>5} {M:6} {figures}")
    return int(failed)


def say(line: str) -> None:
    """Print at once, so that a cut-off run leaves its rows."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
