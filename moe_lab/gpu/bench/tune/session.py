"""Measures tiles of one M, a few at a time interleaved with a reference, and writes a row for each.

A tile's time counts relative to that of the reference measured in the same turns, so that tiles of different turns (or
processes, after a restart) can be compared although clocks and temperature have changed between them.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from moe_lab.gpu.bench.check import Errors
from moe_lab.gpu.bench.clock import interleave, quantiles_us
from moe_lab.gpu.bench.examine import Entry, guard
from moe_lab.gpu.bench.supervise import Told
from moe_lab.gpu.bench.tune.case import Case, Step
from moe_lab.gpu.bench.tune.journal import Journal, Row, key
from moe_lab.gpu.bench.tune.search import ROUNDS, Key, Pair
from moe_lab.spec.configs import Sizes, text
from moe_lab.spec.problem import MoEProblem

Build = Callable[[], tuple[Step, Errors]]
Clock = Callable[..., tuple[dict[Any, list[float]], Any]]


@dataclass
class State(Told):
    """What a measuring process is told of those before it.

    Attributes:
        dead: (key of a row, how the process died) of what is not run again.
        alone: keys of rows that are timed by themselves: the process died while it timed several.
    """

    dead: list[tuple[list[Any], str]] = field(default_factory=list)
    alone: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Session:
    """What all rows of a tuning share.

    Attributes:
        backend: experts plugin.
        routing: spec of the routing.
        seed: of weights, tokens and routing.
        journal: where the rows go.
        state: what was learnt from deaths.
        note: told the keys of what is about to run.
        device: the GPU, or the CPU in tests.
        clock: times steps; see ``clock.interleave``.
        now: seconds; of the budget.
        rounds: repetitions in the rounds of the search.
        most: repetitions of a whole call.
    """

    backend: str
    routing: str
    seed: int
    journal: Journal
    state: State
    note: Callable[[Sequence[Any]], None]
    device: torch.device
    clock: Clock = interleave
    now: Callable[[], float] = time.time
    rounds: tuple[int, ...] = ROUNDS
    most: int = 60

    def parts(
        self, case: Case, keys: Sequence[Key], repetitions: int, number: int, centres: dict[int, Sizes], until: float
    ) -> dict[Key, float]:
        """Measure single GEMMs; see ``search.Measure``.

        Args:
            case: the M.
            keys: what to measure.
            repetitions: of each.
            number: of the round.
            centres: block_m -> tile of the other GEMM meanwhile; that of the fewest rows asked for is the reference.
            until: when to stop, in seconds.
        """
        out: dict[Key, float] = {}
        for part in dict.fromkeys(part for part, _ in keys):
            tiles = [tile for p, tile in keys if p == part]
            todo = {self.row(case, "search", part, number, tile): tile for tile in tiles}
            reference = centres[min(tile[0] for tile in tiles)]
            builds = {row: partial(case.part, part, tile, centres[tile[0]]) for row, tile in todo.items()}
            base = partial(case.part, part, reference, centres[reference[0]])
            found = self._measure(case, builds, base, repetitions, self._share(until, part, keys))
            out |= {(part, tile): found[row] for row, tile in todo.items() if row in found}
        return out

    def wholes(self, case: Case, phase: str, origins: dict[Pair, str], reference: Pair) -> dict[Pair, float]:
        """Measure whole calls; returns microseconds of those that could be.

        Args:
            case: the M.
            phase: ``final`` or ``between``.
            origins: pair of tiles -> where it comes from.
            reference: pair that the others are interleaved with.
        """
        todo = {self.row(case, phase, "full", 0, *pair, origin=origin): pair for pair, origin in origins.items()}
        builds = {row: partial(case.whole, pair) for row, pair in todo.items()}
        found = self._measure(case, builds, partial(case.whole, reference), self.most, float("inf"))
        return {pair: found[row] for row, pair in todo.items() if row in found}

    def row(self, case: Case, phase: str, part: str, number: int, *tiles: Sizes, origin: str = "search") -> "Frozen":
        """Return a row without times.

        Args:
            case: the M.
            phase: ``search``, ``final`` or ``between``.
            part: ``w13``, ``w2`` or ``full``.
            number: of the round.
            *tiles: one; or those of w13 and w2.
            origin: where a pair comes from.
        """
        return Frozen(blank(case.problem, self.backend, self.routing, self.seed, phase, part, number, tiles, origin))

    def _measure(
        self,
        case: Case,
        make: Mapping["Frozen", Build],
        reference: Build,
        repetitions: int,
        until: float,
    ) -> dict["Frozen", float]:
        known = {row: self.journal.rows[row.key] for row in make if row.key in self.journal.rows}
        todo = [row for row in make if row not in known]
        base: Step | None = None
        for chunk in self._chunks(todo, case.room):
            if self.now() > until:
                break
            base = base or (_guarded(reference)[0] or (None,))[0]
            known |= self._chunk(case, {row: make[row] for row in chunk}, base, repetitions)
            case.tidy()
        scale = next((row["reference_us"] for row in known.values() if row["reference_us"]), None)
        return {
            row: done["median_us"] * (scale / done["reference_us"] if scale and done["reference_us"] else 1)
            for row, done in known.items()
            if done["median_us"] is not None
        }

    def _chunks(self, rows: Sequence["Frozen"], room: int) -> Iterable[Sequence["Frozen"]]:
        together = [row for row in rows if list(row.key) not in self.state.alone]
        yield from ([row] for row in rows if list(row.key) in self.state.alone)
        yield from (together[i : i + room] for i in range(0, len(together), room))

    def _chunk(
        self,
        case: Case,
        make: Mapping["Frozen", Build],
        base: Step | None,
        repetitions: int,
    ) -> dict["Frozen", Row]:
        dead = {tuple(key): how for key, how in self.state.dead}
        steps: dict[Any, Step] = {} if base is None else {"": base}
        rows: dict[Frozen, Row] = {}
        for frozen, build in make.items():
            row = rows[frozen] = dict(frozen.row) | {"repetitions": repetitions, "error": dead.get(frozen.key)}
            if row["error"] is not None:
                continue
            self.note([frozen.key])
            made, row["error"] = _guarded(build)
            if made:
                steps[frozen], errors = made
                row |= {"correct": True, "error_max_rel": errors.max_rel, "bound_max_rel": case.oracle.bound.max_rel}
            elif str(row["error"]).startswith("wrong"):
                row["correct"] = False
        self.note([frozen.key for frozen in make if frozen in steps])
        times, _ = self.clock(steps, repetitions, self.device, None, lambda key: False)
        for frozen, row in rows.items():
            if times.get(frozen):
                row |= quantiles_us(times[frozen])
                row["reference_us"] = quantiles_us(times[""])["median_us"] if times.get("") else None
            self.journal.add(row)
        return rows

    def _share(self, until: float, part: str, keys: Sequence[Key]) -> float:
        """Return when to stop with the first of two GEMMs: after half of the time left."""
        first = part == keys[0][0] and len({other for other, _ in keys}) > 1
        return self.now() + (until - self.now()) / 2 if first else until


def _guarded(build: Build) -> tuple[tuple[Step, Errors] | None, str | None]:
    """Return what a call builds, or None and why it failed; see ``examine.guard``."""
    entry = Entry()
    made: list[tuple[Step, Errors]] = []
    guard(entry, lambda: made.append(build()))
    return (made[0] if made else None), entry.errors.get("full")


class Frozen:
    """A row that can be a key.

    Attributes:
        row: its fields.
        key: what tells it from other rows.
    """

    def __init__(self, row: "Row | Frozen"):
        self.row: Row = row.row if isinstance(row, Frozen) else row
        self.key = key(self.row)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self.key == other.key


def blank(
    problem: MoEProblem,
    backend: str,
    routing: str,
    seed: int,
    phase: str,
    part: str,
    number: int,
    tiles: Sequence[Sizes],
    origin: str,
) -> Row:
    """Return a row without times; see ``Session.row``."""
    w13 = text(tiles[0]) if part in ("w13", "full") else None
    w2 = text(tiles[-1]) if part in ("w2", "full") else None
    rest = ("median_us", "p20_us", "p80_us", "reference_us", "correct", "error_max_rel", "bound_max_rel", "error")
    known = {"backend": backend, "routing": routing, "seed": seed, "phase": phase, "part": part, "round": number}
    return problem.facts() | known | {"w13": w13, "w2": w2, "origin": origin, "repetitions": None} | dict.fromkeys(rest)
