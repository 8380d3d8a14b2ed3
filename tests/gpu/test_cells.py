"""Every cell of the matrix of backends that a plugin states is called at a small size."""

from dataclasses import replace
from itertools import product

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import make, run

from moe_lab.gpu.bench import examine
from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import load
from moe_lab.spec import formats, plugins

# A test for each, so that several processes can share them: most of the time is compilation.
CELLS = [
    (backend, format)
    for backend in plugins.names("experts")
    for format in plugins.names("formats")
    if formats.get(format).among(plugins.info("experts", backend)["formats"])
]


def called(backend, format, activation, device, on_input=False, biases=False):
    """The errors of a call of 256 x 256 x 8 experts, or of 64 x 32 x 2 on the CPU, and the oracle."""
    sizes = (16, 256, 256, 8, 1 if on_input else 2) if device == "cuda" else (3, 64, 32, 2, 1 if on_input else 2)
    problem, inputs = make((*sizes, "uniform", activation), device, format, biases)
    problem = replace(problem, apply_router_weight_on_input=on_input)
    examine.refuse(backend, plugins.info("experts", backend), problem, inputs.x.device)
    oracle = Oracle(inputs, problem)
    return oracle.errors(run(backend, problem, inputs)), oracle


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "format"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_every_stated_cell_of_a_backend_is_right(backend, format, device):
    if reason := plugins.unavailable("experts", backend):
        pytest.skip(reason)
    load(backend)
    info = plugins.info("experts", backend)
    wrong = []
    for activation in info["activations"]:
        # Biases, which no product but the activation follows, once.
        biased = [True] if formats.adds_biases(info, format) and activation == info["activations"][0] else []
        for on_input, biases in product((False, True), [False, *biased]):
            errors, oracle = called(backend, format, activation, device, on_input, biases)
            if not oracle.right(errors, info.get("fp32") == "tf32"):
                wrong.append((activation, on_input, biases, errors.share))
    assert not wrong


@pytest.mark.parametrize("format", plugins.names("formats"))
def test_the_oracles_backend_takes_every_format(format, device):
    errors, oracle = called("torch_loop", format, "gelu_no_mul", device)
    assert oracle.right(errors)
