"""Programs on GPUs of several dies: which tile each takes, and that the results are those of one die."""

import pytest

torch = pytest.importorskip("torch")

from types import SimpleNamespace

from moe_lab.gpu.kernels import _device, fused_moe, grouped
from moe_lab.gpu.routing import synthetic
from moe_lab.spec import plugins, ranges
from moe_lab.spec.problem import MoEProblem


@pytest.mark.parametrize(
    ("arch", "multiprocessors", "dies"),
    [("gfx942:sramecc+:xnack-", 304, 8), ("gfx942", 228, 6), ("gfx942", 38, 1), ("gfx950", 256, 8), ("gfx90a", 110, 1)],
    ids=["mi300x", "mi300a", "one-of-its-dies", "mi355x", "mi250x"],
)
def test_dies_are_counted_by_their_multiprocessors(monkeypatch, arch, multiprocessors, dies):
    properties = SimpleNamespace(gcnArchName=arch, multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(_device, "multiprocessors", lambda device: multiprocessors)
    assert _device.dies.__wrapped__(torch.device("cuda", 0)) == dies
    monkeypatch.setattr(torch.version, "hip", None)
    assert _device.dies.__wrapped__(torch.device("cuda", 0)) == 1


@pytest.mark.parametrize("backend", ["fused_moe", "grouped"])
def test_results_do_not_depend_on_the_number_of_dies(monkeypatch, device, backend):
    """Three dies divide neither the programs nor the tiles."""
    p = MoEProblem(20, 64, 32, 4, 2, "fp32")
    generator = torch.Generator().manual_seed(0)
    x, w13, w2 = (torch.randn(*s, generator=generator).to(device) / 8 for s in ((20, 64), (4, 64, 64), (4, 64, 32)))
    call = (x, w13, w2, *synthetic("zipf:1.5", 20, 4, 2, device=device))
    plugin, silent = plugins.load("experts", backend), ranges.marker("none")
    wanted = plugin.experts(*call, problem=p, mark=silent)
    for kernels in (fused_moe, grouped):
        monkeypatch.setattr(kernels, "dies", lambda device: 3)
    torch.testing.assert_close(plugin.experts(*call, problem=p, mark=silent), wanted, rtol=0, atol=0)
