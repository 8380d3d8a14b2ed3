# SPDX-License-Identifier: Apache-2.0
"""What a routing gives the ranks to do: rows that travel between each two, pairs on each rank, and the least time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.align import counted
from moe_lab.gpu.bench.meet import every
from moe_lab.spec import formats
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import DTYPE_BYTES, MoEProblem


@dataclass(frozen=True)
class Load:
    """The load of all ranks.

    Attributes:
        problem: of one rank's tokens, shared experts among its own; the rest is of the routed ones.
        rows: [ranks][ranks], tokens of the one that need experts of the other, itself included.
        pairs: [ranks], token-expert pairs that each computes.
        hit: [ranks], experts that got any.
        experts: [E], pairs of each expert.
        between: [ranks][ranks], pairs of tokens of the one with experts of the other.
    """

    problem: MoEProblem
    rows: list[list[int]]
    pairs: list[int]
    hit: list[int]
    experts: list[int]
    between: list[list[int]]

    @classmethod
    def of(cls, problem: MoEProblem, parallel: Parallel, topk_ids: Tensor) -> "Load":
        """Return the load of the tokens of all ranks, of which this one has topk_ids [M, topk]; ranks ask together."""
        ids = topk_ids.long().cpu()
        routes, copies = torch.tensor(parallel.routes()[0]), torch.arange(len(ids))[:, None]
        ranks = routes[copies % len(routes), ids]  # [M, topk]
        theirs = ranks == torch.arange(parallel.ranks)[:, None, None]  # [ranks, M, topk]
        E = parallel.experts
        on_ranks = counted(ranks * E + ids, parallel.ranks * E).view(parallel.ranks, E)
        given = every((theirs.any(dim=2).sum(dim=1).tolist(), on_ranks, theirs.sum(dim=(1, 2)).tolist()))
        total = torch.stack([counts for _, counts, _ in given]).sum(dim=0)
        pairs, hit, experts = (part.tolist() for part in (total.sum(1), (total > 0).sum(1), total.sum(0)))
        rows, between = ([of[i] for of in given] for i in (0, 2))
        return cls(problem, rows, pairs, hit, experts, between)

    @property
    def expert_rows(self) -> list[tuple[str, int]]:
        """Pairs of each expert that has any, by its number."""
        return [(str(expert), pairs) for expert, pairs in enumerate(self.experts) if pairs]

    def facts(self) -> dict[str, Any]:
        """Return columns that do not depend on how it is done."""
        return {
            "experts_hit": len(self.expert_rows),
            "rows_useful": sum(self.pairs),
            "rows_most": max(self.experts, default=0),
            "rank_rows": [(str(rank), pairs) for rank, pairs in enumerate(self.pairs)],
        }

    def rates(
        self, part: str, us: float | None, sends: str, links: Sequence[dict[str, Any]], roofs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what a part must move and the least that it takes; None where that is unknown.

        Args:
            part: dispatch, experts, combine, shared (experts), full (all, one after another), overlapped (all, with
                shared experts while rows travel) or fused (all, with shared experts among the routed ones).
            us: its time in microseconds.
            sends: how often a token travels: to ``all`` ranks, once for each of its ``pairs``, or as ``needed``.
            links: of ``links.measure``.
            roofs: of ``roofs.measure``.
        """
        ways = {name: self._way(name, links, sends) for name in ("dispatch", "combine")}
        needed, sent, floor = ways.get(part, (None, None, None))
        experts, shared = self._experts_us(roofs), self._shared_us(roofs)
        if part in ("experts", "shared"):
            floor = experts if part == "experts" else shared
        elif part in ("full", "overlapped", "fused"):
            there, back = ways.values()
            needed, sent = there[0] + back[0], there[1] + back[1]
            if there[2] is not None and back[2] is not None and experts is not None and shared is not None:
                travels = there[2] + back[2]
                floor = experts + (max(travels, shared) if part == "overlapped" else travels + shared)
        return {
            "needed_bytes": needed,
            "sent_bytes": sent,
            "sent_gb_per_s": round(sent / us / 1e3, 3) if sent is not None and us else None,
            "link_bytes_per_s": min((link["bytes_per_s"] for link in links), default=None),
            "trip_us": max((link["trip_us"] for link in links), default=None),
            "floor_us": None if floor is None else round(floor, 3),
        }

    def _way(self, name: str, links: Sequence[dict[str, Any]], sends: str) -> tuple[int, int, float | None]:
        """Return bytes that must go to other ranks and that do, of the rank with the most, and the least time."""
        p = self.problem
        size = formats.get(p.format).activation_bytes(1, p.K) if name == "dispatch" else p.K * DTYPE_BYTES[p.dtype]
        count = range(len(self.rows))

        def travel(rows: list[list[int]]) -> dict[tuple[int, int], int]:
            back = name == "combine"  # what a rank got from others it sends back
            return {(r, s): (rows[s][r] if back else rows[r][s]) * size for r in count for s in count if r != s}

        needed = travel(self.rows)
        sent = travel(self.between) if sends == "pairs" else needed
        if sends == "all":
            sent = dict.fromkeys(needed, p.M * size)
        most = [max(sum(of[r, s] for s in count if s != r) for r in count) for of in (needed, sent)]
        floors = [
            needed[link["source"], link["target"]] / link["bytes_per_s"] * 1e6 + link["trip_us"]
            for link in links
            if needed[link["source"], link["target"]]
        ]
        return most[0], most[1], max(floors, default=0.0) if links else None

    def _experts_us(self, roofs: Mapping[str, Any]) -> float | None:
        """Return the least time of the routed experts of the rank that needs longest."""
        arrived = [sum(rows[rank] for rows in self.rows) for rank in range(len(self.rows))]
        problems = [replace(self.problem.routed, M=M) for M in arrived]
        times = [_least_us(*load, roofs) for load in zip(problems, self.hit, self.pairs, strict=True)]
        return max((us for us in times if us is not None), default=None)

    def _shared_us(self, roofs: Mapping[str, Any]) -> float | None:
        """Return the least time of the shared experts, which have the tokens of their rank."""
        p = self.problem
        if not p.shared:
            return 0.0
        return _least_us(replace(p, E=p.shared, topk=p.shared, shared=0), p.shared, p.M * p.shared, roofs)


def _least_us(problem: MoEProblem, hit: int, pairs: int, roofs: Mapping[str, Any]) -> float | None:
    """Return the least time of experts that have rows, by bytes or by FLOPs; None without roofs."""
    read, multiply = (roofs.get(name) for name in ("read_bytes_per_s", "matmul_flops_per_s"))
    if not read or not multiply:
        return None
    us: float = 1e6 * max(problem.minimum_bytes(hit) / read, problem.executed_flops(pairs) / multiply)
    return us
