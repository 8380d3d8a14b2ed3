# SPDX-License-Identifier: Apache-2.0
"""The experts part of a layer on several ranks: dispatch, each rank's experts, combine."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.comm import Between, Received, Sizes
from moe_lab.gpu.comm._batched import by_expert
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import AnyWeights, Quantised, dense
from moe_lab.gpu.routing import Routing, synthetic
from moe_lab.gpu.shared_experts import SharedExperts
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark


def routed(spec: str, M: int, problem: MoEProblem, parallel: Parallel, **more: Any) -> Routing:
    """Return this rank's part, M tokens, of a ``routing.synthetic`` of the tokens of all ranks; ``more`` goes there."""
    whole = synthetic(spec, M * parallel.ranks, problem.E, problem.topk, **more)
    return Routing(*(each[parallel.rank * M :][:M].contiguous() for each in whole))


def held(w: AnyWeights, parallel: Parallel) -> AnyWeights:
    """Return the weights of this rank's experts, [local experts, ...], of those of all, [E, ...]."""
    own = list(parallel.local)
    return w[own] if isinstance(w, Tensor) else w.each(lambda tensor: tensor[own])


class Aside:
    """A second stream of a device, which the GPU prefers to the current one; the CPU has none."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def fork(self) -> None:
        """Let the second stream begin after what is on the current one now."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def here(self) -> AbstractContextManager[Any]:
        """Return a context whose launches go to the second stream."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def join(self) -> None:
        """Let the current stream go on after what is on the second one now."""
        if self._stream:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def load_sharing(backend: str) -> tuple[Any, dict[str, Any]]:
    """Return an experts backend as ``experts.load`` does.

    Raises:
        UserError: it is unknown or unavailable, or can neither leave out experts nor take rows by expert.
    """
    plugin, info = load(backend)
    if not hasattr(plugin, "batched") and not info.get("share"):
        able = ", ".join(name for name in plugins.names("experts") if plugins.info("experts", name).get("share"))
        raise UserError(
            f"The experts backend '{backend}' cannot leave out experts of other ranks; choose one that can, such as: "
            f"{able}."
        )
    return plugin, info


@dataclass
class RankedExperts:
    """The experts part on the ranks of the default process group, as one of them runs it.

    Attributes:
        problem: of one rank's tokens: M is the most tokens of a rank, E counts the experts of all ranks.
        between: how tokens get to other ranks and back.
        backend: experts plugin, or ``name@version``; not asked where the comm plugin does the experts too.
        aside: the stream of what is routed, so that shared experts are computed while rows travel; None = they come
            after it.
    """

    problem: MoEProblem
    between: Between
    backend: str
    aside: Aside | None = None

    def __post_init__(self) -> None:
        if self.between.whole:
            return
        self._plugin, self._info = load_sharing(self.backend)
        self._by_expert = hasattr(self._plugin, "batched")

    @property
    def computes(self) -> str:
        """What computes the experts: the backend, or the comm plugin if it does that too."""
        return self.between.name if self.between.whole else self.backend

    @classmethod
    def make(
        cls,
        problem: MoEProblem,
        parallel: Parallel,
        device: torch.device,
        *,
        comm: str,
        backend: str,
        overlap: bool = False,
    ) -> "RankedExperts":
        """Make the buffers: all ranks do so together.

        Raises:
            UserError: a plugin that is unknown or unavailable or cannot do this, or sizes that do not fit together.
        """
        if parallel.experts != problem.E:
            raise UserError(f"The placement is of {parallel.experts} experts, but the layer has {problem.E}.")
        if plugins.info("comm", comm)["layout"] == "batched" and not hasattr(load(backend)[0], "batched"):
            raise UserError(
                f"{comm} delivers rows by expert, which the experts backend '{backend}' does not take; use --backend "
                "batched."
            )
        sizes = Sizes(problem.M, problem.K, problem.topk, problem.format, device, problem, overlap)
        return cls(problem, Between(comm, parallel, sizes), backend, Aside(device) if overlap else None)

    def prepare(self, w13: AnyWeights, w2: AnyWeights) -> Any:
        """Return this rank's w13 and w2 as what computes the experts wants them, from those of all experts."""
        own = (held(w, self.between.parallel) for w in (w13, w2))
        if self.between.whole:
            return self.between.weights(*own)
        return getattr(self._plugin, "prepare", lambda *both: both)(*own)

    def __call__(
        self,
        x: Tensor,
        weights: Any,
        topk_weights: Tensor,
        topk_ids: Tensor,
        mark: Mark,
        shared: SharedExperts | None = None,
    ) -> Tensor:
        """Return the layer's output [M, K] for the tokens of this rank.

        Args:
            x: [M, K] in the dtype of the problem's format; M may differ from rank to rank, and be 0.
            weights: of ``prepare``.
            topk_weights: [M, topk] fp32.
            topk_ids: [M, topk] integer, numbers among all experts.
            mark: opens the ranges.
            shared: shared experts, which every rank has and computes for its own tokens; None = there are none.
        """
        routed = partial(self._routed, x, weights, topk_weights, topk_ids, mark)
        if shared is None:
            return routed()
        if self.aside is None:
            y = routed()
            with mark("shared_experts"):
                return shared(x, y)
        # Launched first, so that a dispatch for which the host waits finds them on their way; the GPU still prefers it.
        self.aside.fork()
        with mark("shared_experts"):
            own = shared(x)
        with self.aside.here():
            y = routed()
        self.aside.join()
        # Memory of either stream is used again only by a later call's launches there, which come after this sum.
        with mark("shared_experts"):
            return own.add_(y)

    def _routed(self, x: Tensor, weights: Any, topk_weights: Tensor, topk_ids: Tensor, mark: Mark) -> Tensor:
        if self.between.whole:
            return self.between.layer(x, weights, topk_weights, topk_ids, mark)
        received = self.dispatch(x, topk_ids, topk_weights, mark)
        return self.between.combine(self.compute(received, weights, mark), received, mark)

    def dispatch(self, x: Tensor, topk_ids: Tensor, topk_weights: Tensor, mark: Mark) -> Received:
        """Return what this rank's experts work on, in the layout that the backend wants; see ``__call__``."""
        received, local = self.between.dispatch(x, topk_ids, topk_weights, mark), len(self.between.parallel.local)
        if received.counts is None and self._by_expert and local and len(received.topk_ids):
            return by_expert(received, local, self.problem, mark)
        return received

    def compute(self, received: Received, weights: Any, mark: Mark) -> Tensor:
        """Return what this rank's experts make of received tokens, [tokens, K]; 0 where a token has none here.

        Where ``combine`` of the way sums, it is [local experts * room, K]: what an expert makes of each of its rows.
        """
        x, topk_weights, topk_ids = received.x, received.topk_weights, received.topk_ids
        local, dtype = self.between.parallel.local, DTYPES[self.problem.dtype]
        if not local or not len(topk_ids):
            return torch.zeros((len(topk_ids), self.problem.K), dtype=dtype, device=topk_ids.device)
        if received.counts is not None:
            whole = replace(self.problem, M=len(topk_ids))
            rows: Tensor = self._plugin.batched(received, *weights, problem=whole, mark=mark, dtype=dtype)
            return rows
        if isinstance(x, Quantised) and not self._info.get("rows"):
            with mark("dispatch"):
                x = dense(x, dtype)
        # A problem has at least topk experts; those beyond this rank's get no pairs.
        own = replace(self.problem, M=x.shape[0], E=max(len(local), self.problem.topk))
        share = len(local) / self.problem.E
        y: Tensor = self._plugin.experts(x, *weights, topk_weights, topk_ids, problem=own, mark=mark, share=share)
        return y
