"""A small layer in any format, and a run of a backend on it."""

import torch

from moe_lab.gpu import formats, routing
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.experts import load
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import ranges
from moe_lab.spec.problem import MoEProblem

SILENT = ranges.marker("none")


def make(case, device, format="fp8_block", biases=False):
    M, K, N, E, topk, spec, activation = case
    problem = MoEProblem(M, K, N, E, topk, format, activation, biases=biases)
    dtype = DTYPES[problem.dtype]
    if device == "cpu" and dtype == torch.bfloat16:  # the interpreter has none
        dtype = torch.float16
    g = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def normal(*shape, scale):
        spread = 2.0 ** torch.randint(-2, 2, (*shape[:-1], 1), generator=g)  # so that a wrong scale shows
        return (torch.randn(*shape, generator=g) * scale * spread).to(device)

    weights = [normal(E, problem.rows13, K, scale=K**-0.5).to(dtype), normal(E, K, N, scale=N**-0.5).to(dtype)]
    if biases:
        weights = [formats.Biased(w, normal(*w.shape[:2], scale=1).to(dtype)) for w in weights]
    x = normal(M, K, scale=1).to(dtype)
    ids = routing.synthetic(spec, M, E, topk, seed=g.initial_seed(), device=device)
    return problem, Inputs(x, *(formats.quantise(w, format) for w in weights), *ids)


def run(name, problem, inputs, mark=SILENT, **options):
    backend, _ = load(name)
    prepared = getattr(backend, "prepare", lambda *w: w)(inputs.w13, inputs.w2)
    return backend.experts(inputs.x, *prepared, *inputs[3:], problem=problem, mark=mark, **options)


def assert_right(y, problem, inputs):
    """Assert that y is within what the arithmetic of the format allows; return the oracle."""
    oracle = Oracle(inputs, problem)
    errors = oracle.errors(y)
    assert oracle.right(errors), (errors, oracle.bound)
    return oracle
