# SPDX-License-Identifier: Apache-2.0
"""The fastest of our own backends for the sizes, the tokens and the GPU, by measurements that ship with the package."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.experts import hopper
from moe_lab.gpu.experts._tuned import gpu
from moe_lab.gpu.formats import AnyWeights, Quantised, apart
from moe_lab.gpu.kernels.quantise import parts
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import formats, plugins
from moe_lab.spec.configs import measured
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "the fastest of hopper, grouped and fused_moe for the sizes, M and the GPU, as measured",
    "needs": ["torch", "triton"],
    "hardware": "NVIDIA SM80+, AMD CDNA3+; the CPU under TRITON_INTERPRET=1 (fp32, fp16)",
    "formats": [
        "fp32",
        "fp16",
        "bf16",
        "fp8_block",
        "fp8_tensor",
        "fp8_token",
        "int4_w4a16",
        "int4_w4a8",
        "int8",
        "int8_w8a16",
        "mxfp4",
        "mxfp4_w4a8",
        "nvfp4",
    ],
    "cpu_formats": ["fp32", "fp16", "bf16"],
    "activations": ["silu", "swigluoai"],
    "biases": True,
    "cuda_graph": True,
    "source": "moe_lab",
}

# Without measurements, the first that can do the problem is taken.
BACKENDS = ("hopper", "fused_moe", "grouped")
Prepared = dict[str, tuple[Any, Any]]


@cache  # a look-up reads the plugin's source, and every call needs it
def _backend(name: str) -> Any:
    return plugins.load("experts", name)


@cache
def _formats(name: str) -> tuple[str, ...]:
    return tuple(plugins.info("experts", name)["formats"])


def possible(problem: MoEProblem, device: torch.device) -> tuple[str, ...]:
    """Return the backends that can do a problem on a device, the one that is likely best first."""
    can = BACKENDS if hopper.takes(problem) and hopper.runs_on(device) else BACKENDS[1:]
    return tuple(name for name in can if formats.get(problem.format).among(_formats(name)))


def choose(problem: MoEProblem, device: torch.device) -> str:
    """Return the backend that a call takes; UserError if none can do the format here."""
    if not (can := possible(problem, device)):
        raise UserError(f"No backend of ours can do {problem.format} of these sizes on this device; choose bf16.")
    known = measured.find(problem, gpu(device))
    return (known.quickest(problem.M, problem.topk, can) if known else None) or can[0]


def prepare(w13: AnyWeights, w2: AnyWeights) -> tuple[Prepared, None]:
    """Return the weights as prepared by each backend that may be chosen at some M."""
    plain, _ = apart(w2)
    (E, K, N), device = plain.shape, parts(plain)[0].device
    format = plain.format if isinstance(plain, Quantised) else next(n for n, d in DTYPES.items() if d == plain.dtype)
    problem = MoEProblem(1, K, N, E, 1, format)  # neither M nor topk is known here, and neither decides what can run
    can, known = possible(problem, device), measured.find(problem, gpu(device))
    wanted = {known.quickest(M, known.topk, can) or can[0] for M in known.us} if known else set(can[:1])
    prepared: Prepared = {}
    for name in sorted(wanted):
        backend = _backend(name)
        prepared[name] = backend.prepare(w13, w2) if hasattr(backend, "prepare") else (w13, w2)
    return prepared, None  # ``prepare`` returns two values by contract; w2 is in the first


def experts(
    x: Tensor,
    w13: Prepared,
    w2: None,
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    problem: MoEProblem,
    mark: Mark,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x. No host synchronisation."""
    name = choose(problem, x.device)
    result: Tensor = _backend(name).experts(x, *w13[name], topk_weights, topk_ids, problem=problem, mark=mark)
    return result


def block_m(problem: MoEProblem) -> int:
    """Return the multiple to which the backend that is chosen on the current GPU pads an expert's rows."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return int(_backend(choose(problem, device)).block_m(problem))
