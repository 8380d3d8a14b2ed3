# SPDX-License-Identifier: Apache-2.0
"""One M of a tuning run: its inputs, the oracle, the timed steps for a tile, and the tiles known before any search."""

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.bench import stages
from moe_lab.gpu.bench.check import Errors, Inputs, Oracle
from moe_lab.gpu.bench.clock import ready
from moe_lab.gpu.bench.examine import SILENT, Weights, result_of
from moe_lab.gpu.bench.tune.search import BLOCK_M, Pair, bytes_held
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.routing import synthetic
from moe_lab.gpu.weights import tokens
from moe_lab.spec import peers, plugins
from moe_lab.spec.configs import Sizes, engines
from moe_lab.spec.configs.tile import checked
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

Step = Callable[[], object]
MOST = 24  # tiles that are timed interleaved


class Case:
    """One M of a tuning run.

    Attributes:
        problem: sizes and dtype.
    """

    def __init__(
        self, problem: MoEProblem, backend: str, weights: Weights, routing: str, seed: int, device: torch.device
    ):
        """Draw tokens and routing; ``backend`` is an experts plugin that takes ``tile``, ``weights`` its model's."""
        self.problem, self._device = problem, device
        self._backend: Any = plugins.load("experts", backend)
        self._prepared = weights.of(backend, self._backend)
        x = tokens(problem, device, seed)
        drawn = synthetic(routing, problem.M, problem.E, problem.topk, seed=seed, device=device)
        self._inputs = Inputs(x, weights.w13, weights.w2, *drawn)

    @cached_property
    def oracle(self) -> Oracle:
        """What the layer should return."""
        return Oracle(self._inputs, self.problem)

    @property
    def room(self) -> int:
        """How many tiles can be timed interleaved: each keeps the results of a call."""
        if self._device.type == "cpu":
            return MOST
        # A third of what is free: ``bytes_held`` is an estimate, and the allocator does not fill its blocks.
        free = torch.cuda.mem_get_info(self._device)[0]
        return max(1, min(MOST, free // 3 // bytes_held(self.problem)))

    def tidy(self) -> None:
        """Give back the memory of steps that are no longer in use."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def call(self, pair: Pair, mark: Any = SILENT) -> Tensor:
        """Return the output [M, K] of a call with these tiles of w13 and w2."""
        x, weights, ids = self._inputs.x, self._inputs.topk_weights, self._inputs.topk_ids
        tile = Tile(*pair[0]), Tile(*pair[1])
        return self._backend.experts(  # type: ignore[no-any-return]
            x, *self._prepared, weights, ids, problem=self.problem, mark=mark, tile=tile
        )

    def whole(self, pair: Pair) -> tuple[Step, Errors]:
        """Return the timed step for a whole call, and its errors; UserError if the result is wrong."""
        step = ready(partial(self.call, pair), "graph", self._device)
        return step, self._right(result_of(step()))

    def part(self, part: str, tile: Sizes, partner: Sizes) -> tuple[Step, Errors]:
        """Return the timed step for one GEMM (on the CPU: for a whole call), and the errors of the call.

        Raises:
            UserError: the result is wrong, or the backend has no separate stage for the part.
        """
        pair = (tile, partner) if part == "w13" else (partner, tile)
        if self._device.type == "cpu":
            return partial(self.call, pair), self._right(self.call(pair))
        self.call(pair)  # compiles, which a graph capture does not allow
        stage = stages.capture(partial(self.call, pair), part)
        return stage.replay, self._right(stage.result)

    def _right(self, y: Any) -> Errors:
        found, bound = self.oracle.errors(y), self.oracle.bound
        if not self.oracle.right(found):
            raise UserError(f"wrong: largest error {found.max_rel:.2g} (allowed {bound.max_rel:.2g})")
        return found


def centres(backend: str, problem: MoEProblem) -> dict[int, Sizes]:
    """Return block_m -> the backend's own default tile with that many rows, or with the nearest number that it has."""
    plugin: Any = plugins.load("experts", backend)
    cpu = torch.device("cpu")  # for which nothing is tuned: these are the defaults
    found: dict[int, Tile] = {}
    for doublings in range(24):
        given = problem.K, problem.N, problem.E, problem.topk, problem.format
        own, _ = plugin.tiles(MoEProblem(1 << doublings, *given), cpu)
        found.setdefault(own.block_m, own)
    nearest = {block_m: found[min(found, key=lambda rows: abs(rows - block_m))] for block_m in BLOCK_M}
    return {block_m: sizes(replace(tile, block_m=block_m)) for block_m, tile in nearest.items()}


def default(backend: str, problem: MoEProblem) -> Pair:
    """Return the backend's own default tiles, without any tuning."""
    plugin: Any = plugins.load("experts", backend)
    w13, w2 = plugin.tiles(problem, torch.device("cpu"))
    return sizes(w13), sizes(w2)


def sizes(tile: Tile) -> Sizes:
    """Return the numbers of a tile."""
    return checked(astuple(tile))


def shipped(problem: MoEProblem, gpu: str | None) -> dict[str, Pair]:
    """Return origin (``vllm 0.15.0``) -> its tiles at the problem's M, for each release on this machine with a file.

    ``gpu``: the GPU's own name; None = no GPU, and so no tiles.
    """
    found: dict[str, Pair] = {}
    here = [peer for name in engines.ENGINES if (peer := peers.installed(name))]
    for peer in [*here, *peers.cached()] if gpu else []:
        if peer.project not in engines.ENGINES:
            continue
        name, down = (
            engines.file_name(peer.project, problem.E, problem.N, str(gpu), problem.format, down=down)
            for down in (False, True)
        )
        files = [path for path in peer.files("tiles") if path.name == name]
        if not files:
            continue
        w13 = max(files, key=engines.triton_release)  # SGLang ships a folder per Triton release: the newest
        w2 = w13.with_name(down) if w13.with_name(down).is_file() and peer.project == "sglang" else w13
        try:
            pair = tuple(engines.nearest(engines.tiles(path), problem.M) for path in (w13, w2))
        except UserError:
            continue
        if pair[0][0] == pair[1][0]:  # our backends align once for both GEMMs
            found[f"{peer.project} {peer.version}"] = pair[0], pair[1]
    return found
