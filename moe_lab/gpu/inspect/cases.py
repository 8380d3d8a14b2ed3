# SPDX-License-Identifier: Apache-2.0
"""What to compile: calls of experts backends, align algorithms and the router, on tensors without memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.bench.tune.case import centres
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import AnyWeights, Biased, quantise
from moe_lab.gpu.inspect.pretend import DEVICE, Tensors
from moe_lab.gpu.inspect.record import Launch, record
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import models, peers, plugins
from moe_lab.spec.configs import parse
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

TILES_OF = "fused_moe"  # align algorithms are compiled for this backend's block_m
ALIGN = "multi_block"  # for experts; its launches are left out, because align has cases of its own
LAUNCHES_ONLY = ("cuda.core", "cuda.bindings")  # modules that launch kernels, which nothing here does


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        group: ``experts``, ``align`` or ``router``.
        name: backend or algorithm; ``fused_route`` for the router.
        model: preset, or sizes.
        format: of weights and activations.
        M: tokens.
        part: w13 or w2, if the call is only for this GEMM.
        tile: its tile, as ``configs.text``, if it is not the launcher's own.
    """

    group: str
    name: str
    model: str
    format: str
    M: int
    part: str = ""
    tile: str = ""

    @property
    def problem(self) -> MoEProblem:
        """Sizes and format of the call."""
        return MoEProblem.preset(self.model, self.M, self.format)

    def facts(self) -> dict[str, Any]:
        """Return the case as columns of a row."""
        known = {key: value for key, value in asdict(self).items() if key not in ("group", "name") and value != ""}
        known |= {"backend": None, "algorithm": None} | {_COLUMN[self.group]: self.name}
        plugin, _, version = self.name.partition("@")
        project = plugins.info("experts", plugin).get("peer") if self.group == "experts" else None
        release = peers.find(project, version or None) if project else None
        return known | ({"version": release.version} if release else {})

    def launches(self) -> list[Launch]:
        """Return what the call would launch on the GPU that this process pretends to have; UserError if it refuses."""
        with Tensors():
            launches = record(self._call)
        if self.part:
            return [launch for launch in launches if launch.stage.split("+")[0] == self.part]
        return [launch for launch in launches if self.group == "align" or launch.stage != "align"]

    def _call(self, mark: Mark) -> None:
        {"experts": self._experts, "align": self._align, "router": self._router}[self.group](mark)

    def _experts(self, mark: Mark) -> None:
        p, (backend, info) = self.problem, load(self.name, LAUNCHES_ONLY)
        refuse(self.name, info, p, DEVICE)
        x = torch.empty((p.M, p.K), dtype=DTYPES[p.dtype], device=DEVICE)
        w13, w2 = (self._stacked(*shape) for shape in ((p.rows13, p.K), (p.K, p.N)))
        if hasattr(backend, "prepare"):
            w13, w2 = backend.prepare(w13, w2)
        weights = torch.empty((p.M, p.topk), dtype=torch.float32, device=DEVICE)
        chosen: dict[str, Any] = {"align": ALIGN} if "align" in info else {}
        if self.part:
            chosen["tile"] = self._pair()
        backend.experts(x, w13, w2, weights, self._ids(), problem=p, mark=mark, **chosen)

    def _stacked(self, rows: int, columns: int) -> AnyWeights:
        p = self.problem
        w, bias = (
            torch.empty((p.E, *shape), dtype=DTYPES[p.dtype], device=DEVICE) for shape in ((rows, columns), (rows,))
        )
        return quantise(Biased(w, bias) if p.biases else w, self.format)

    def _pair(self) -> tuple[Tile, Tile]:
        """Return the tiles of w13 and w2: the other GEMM's is the backend's own with as many rows."""
        given = parse(self.tile)
        tile, other = Tile(*given), Tile(*centres(self.name, self.problem)[given[0]])
        return (tile, other) if self.part == "w13" else (other, tile)

    def _align(self, mark: Mark) -> None:
        p, tiles = self.problem, plugins.load("experts", TILES_OF).tiles
        with mark("align"):
            plugins.load("align", self.name, LAUNCHES_ONLY).align(self._ids(), tiles(p, DEVICE)[0].block_m, p.E)

    def _router(self, mark: Mark) -> None:
        from moe_lab.gpu.kernels.router import fused_route

        p, router = self.problem, models.model(self.model).router
        logits = torch.empty((p.M, p.E), dtype=DTYPES[p.dtype], device=DEVICE)
        bias = torch.empty((p.E,), dtype=torch.float32, device=DEVICE) if router.bias else None
        with mark("router"):
            fused_route(logits, router, p.topk, bias)

    def _ids(self) -> torch.Tensor:
        return torch.empty((self.M, self.problem.topk), dtype=torch.int32, device=DEVICE)


_COLUMN = {"experts": "backend", "align": "algorithm", "router": "algorithm"}


def planned(
    groups: list[str], backends: list[str], algorithms: list[str], model: str, formats: list[str], tokens: list[int]
) -> Iterator[Case]:
    """Yield every case; align and the router only in the first format, align only if it takes the pairs."""
    for M in tokens:
        for format in formats if "experts" in groups else ():
            yield from (Case("experts", name, model, format, M) for name in backends)
        if "align" in groups:
            for name in algorithms:
                pairs = MoEProblem.preset(model, M, formats[0]).rows_useful
                if pairs <= plugins.info("align", name).get("most_pairs", pairs):
                    yield Case("align", name, model, formats[0], M)
        if "router" in groups:
            yield Case("router", "fused_route", model, formats[0], M)
