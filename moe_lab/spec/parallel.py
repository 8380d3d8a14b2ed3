# SPDX-License-Identifier: Apache-2.0
"""Expert parallelism: which rank holds which experts, and their local numbers on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import read_json


@dataclass(frozen=True)
class Parallel:
    """The placement of experts on ranks, as one rank sees it.

    Attributes:
        placement: rank -> the experts that it holds, in the order of their local numbers. An expert that several ranks
            hold is redundant: its tokens may go to any of them.
        rank: this rank.

    Raises:
        UserError: there is no such rank, a rank holds an expert twice, or no rank holds some expert.
    """

    placement: tuple[tuple[int, ...], ...]
    rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise UserError(f"There is no rank {self.rank} of {self.ranks}; ranks count from 0.")
        for rank, held in enumerate(self.placement):
            if len(set(held)) < len(held):
                raise UserError(f"Rank {rank} holds an expert twice; place each expert on a rank once.")
        held_somewhere = {expert for own in self.placement for expert in own}
        if held_somewhere != set(range(self.experts)) or not held_somewhere:
            raise UserError(f"Each expert of 0 to {self.experts - 1} must be on a rank; {len(held_somewhere)} are.")

    @classmethod
    def contiguous(cls, E: int, ranks: int = 1, rank: int = 0) -> "Parallel":
        """Return the usual placement, equal shares in order; UserError if there are fewer experts than ranks."""
        if not 1 <= ranks <= E:
            raise UserError(f"{E} experts cannot be shared by {ranks} ranks; use 1 to {E}.")
        # If E is not a multiple of the ranks, the first ones hold one expert more.
        starts = [r * (E // ranks) + min(r, E % ranks) for r in range(ranks + 1)]
        return cls(tuple(tuple(range(a, b)) for a, b in pairwise(starts)), rank)

    @classmethod
    def mapped(cls, owners: Sequence[Sequence[int]], ranks: int, rank: int = 0) -> "Parallel":
        """Return the placement that says for each expert which ranks hold it; several hold a redundant one.

        Raises:
            UserError: an expert names no rank, one twice, or one that there is not.
        """
        for expert, own in enumerate(owners):
            if not own or len(set(own)) < len(own) or not set(own) <= set(range(ranks)):
                raise UserError(f"Expert {expert} must be on some of the ranks 0 to {ranks - 1}, on each once.")
        return cls(tuple(tuple(e for e, own in enumerate(owners) if r in own) for r in range(ranks)), rank)

    @classmethod
    def read(cls, placement: str, E: int, ranks: int, rank: int = 0) -> "Parallel":
        """Return ``contiguous``, or what a JSON file says: a list of the experts of each rank.

        Raises:
            UserError: the file cannot be read, or is of another number of ranks or experts.
        """
        if placement == "contiguous":
            return cls.contiguous(E, ranks, rank)
        said = {"what": "a list of each rank's experts", "then": "write [[0, 1], [2, 3]] for two ranks"}
        held: list[list[int]] = read_json(Path(placement), list[list[int]], **said)
        found = cls(tuple(tuple(own) for own in held), rank)
        if (found.ranks, found.experts) != (ranks, E):
            raise UserError(
                f"'{Path(placement).name}' places {found.experts} experts on {found.ranks} ranks; needed are {E} on "
                f"{ranks}."
            )
        return found

    def everywhere(self, more: int) -> "Parallel":
        """Return the placement with further experts, numbered after the others, each of which every rank holds."""
        last = tuple(range(self.experts, self.experts + more))
        return Parallel(tuple((*own, *last) for own in self.placement), self.rank)

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.placement)

    @property
    def experts(self) -> int:
        """Number of experts of the layer, redundant ones counted once."""
        return 1 + max((expert for own in self.placement for expert in own), default=-1)

    @property
    def local(self) -> tuple[int, ...]:
        """Experts of this rank, in the order of their local numbers."""
        return self.placement[self.rank]

    def owners(self, expert: int) -> tuple[int, ...]:
        """Return the ranks that hold an expert."""
        return tuple(rank for rank, own in enumerate(self.placement) if expert in own)

    def expert_map(self) -> list[int]:
        """Return a list [E] for ``align``: the local number of each expert, -1 for those of other ranks."""
        numbers = {expert: number for number, expert in enumerate(self.local)}
        return [numbers.get(expert, -1) for expert in range(self.experts)]

    def routes(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return where this rank sends the pairs of each expert: ranks, and the expert's local number there.

        Both are [copies, E]. Token t goes by row t % copies, so that the ranks that hold a redundant expert share its
        tokens; an expert that this rank holds itself stays here in every row.
        """
        numbers = [{expert: number for number, expert in enumerate(own)} for own in self.placement]
        owners = [self.owners(expert) for expert in range(self.experts)]
        copies = max(len(own) for own in owners)
        # Ranks begin with different owners, or the first would get more than its share of few tokens.
        chosen = [
            [self.rank if self.rank in own else own[(copy + self.rank) % len(own)] for own in owners]
            for copy in range(copies)
        ]
        return chosen, [[numbers[rank][expert] for expert, rank in enumerate(row)] for row in chosen]
