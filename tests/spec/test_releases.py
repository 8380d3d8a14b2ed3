"""Released kernel files, where they are here: each is imported alone, and run once under Triton's interpreter.

They are never part of this repository: MOE_LAB_RELEASES names a folder of ``moe-lab peers add`` that has them;
``./scripts/releases`` downloads the list into one and runs these tests.
"""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from moe_lab.gpu import routing
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

RELEASES = [(n, v) for n in ("vllm_triton", "sglang_triton") for v in plugins.info("experts", n)["tried"]]


@pytest.fixture
def backend(name: str, version: str, monkeypatch):
    """GIVEN a release in the folder of releases."""
    folder = os.environ.get("MOE_LAB_RELEASES")
    project = plugins.info("experts", name)["peer"]
    if not folder or not (Path(folder) / project / version).is_dir():
        pytest.skip(f"{project} {version} is not here: ./scripts/releases downloads it")
    monkeypatch.setenv("MOE_LAB_PEERS", folder)
    plugin = plugins.load("experts", name)
    plugin.at.cache_clear()
    yield plugin.at(version)
    plugin.at.cache_clear()


@pytest.mark.parametrize(("name", "version"), RELEASES, ids=lambda v: v)
def test_release_runs_and_is_right(name: str, version: str, backend, device) -> None:
    mark = ranges.marker("none")
    for M, topk, on_input in ((1, 2, False), (33, 2, False), (9, 1, True)):
        problem = MoEProblem(M, 64, 48, 8, topk, "fp16", apply_router_weight_on_input=on_input)
        g = torch.Generator().manual_seed(M)
        tensors = [
            (scale * torch.randn(*shape, generator=g)).to(device, torch.float16)
            for scale, shape in ((1, (M, 64)), (0.125, (8, 96, 64)), (0.14, (8, 64, 48)))
        ]
        inputs = Inputs(*tensors, *routing.synthetic("uniform", M, 8, topk, seed=1, device=device))
        try:
            y = backend.experts(*inputs, problem=problem, mark=mark)
        except UserError as error:
            pytest.fail(f"{backend.peer.project} {version} broke the adapter {name}: {error}")
        oracle = Oracle(inputs, problem)
        assert oracle.right(oracle.errors(y)), f"{backend.peer.project} {version} gives a wrong result"
