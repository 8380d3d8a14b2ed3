# SPDX-License-Identifier: Apache-2.0
"""Measures the tiles of one M, a few at a time interleaved with a reference, and writes a row for each.

A tile's time counts relative to the reference that was measured with it, so that tiles measured at different times (or
by different processes, after a restart) can be compared although clocks and temperature have changed in between.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from moe_lab.gpu.bench.check import Errors
from moe_lab.gpu.bench.clock import interleave, quantiles_us
from moe_lab.gpu.bench.examine import Entry, guard
from moe_lab.gpu.bench.supervise import TuneState
from moe_lab.gpu.bench.tune.case import Case, Step
from moe_lab.gpu.bench.tune.journal import Journal, Row, key
from moe_lab.gpu.bench.tune.search import ROUNDS, Key, Pair
from moe_lab.spec.configs import Sizes, text
from moe_lab.spec.problem import MoEProblem

Build = Callable[[], tuple[Step, Errors]]
Make = Mapping[Any, tuple[Row, Build]]  # tile or pair -> its row without times, and the function that builds its step
Clock = Callable[..., tuple[dict[Any, list[float]], Any]]


@dataclass(frozen=True)
class Session:
    """What all rows of a tuning run share.

    Attributes:
        backend: experts plugin.
        routing: spec of the routing.
        seed: of weights, tokens and routing.
        journal: where the rows go.
        state: what was learnt from crashes.
        note: called with the keys of what is about to run.
        device: the GPU, or the CPU in tests.
        clock: times steps; see ``clock.interleave``.
        now: returns the time in seconds, to compare with the budget.
        rounds: repetitions in each round of the search.
        most: repetitions of a whole call.
    """

    backend: str
    routing: str
    seed: int
    journal: Journal
    state: TuneState
    note: Callable[[Sequence[Any]], None]
    device: torch.device
    clock: Clock = interleave
    now: Callable[[], float] = time.time
    rounds: tuple[int, ...] = ROUNDS
    most: int = 60

    def parts(
        self, case: Case, keys: Sequence[Key], repetitions: int, number: int, centres: dict[int, Sizes], until: float
    ) -> dict[Key, float]:
        """Measure single GEMMs until a time in seconds; see ``search.Measure``.

        ``centres``: block_m -> tile for the other GEMM; the one with the smallest requested block_m is the reference.
        """
        out: dict[Key, float] = {}
        for part in dict.fromkeys(part for part, _ in keys):
            tiles = [tile for p, tile in keys if p == part]
            reference = centres[min(tile[0] for tile in tiles)]
            make: dict[Any, tuple[Row, Build]] = {
                tile: (
                    self.row(case.problem, "search", part, number, tile),
                    partial(case.part, part, tile, centres[tile[0]]),
                )
                for tile in tiles
            }
            base = partial(case.part, part, reference, centres[reference[0]])
            found = self._measure(case, make, base, repetitions, self._share(until, part, keys))
            out |= {(part, tile): us for tile, us in found.items()}
        return out

    def wholes(self, case: Case, phase: str, origins: dict[Pair, str], reference: Pair) -> dict[Pair, float]:
        """Measure whole calls, interleaved with a reference; return the microseconds of those that ran.

        ``phase``: ``final`` or ``between``; ``origins``: pair of tiles -> where it comes from.
        """
        make: dict[Any, tuple[Row, Build]] = {
            pair: (self.row(case.problem, phase, "full", 0, *pair, origin=origin), partial(case.whole, pair))
            for pair, origin in origins.items()
        }
        return self._measure(case, make, partial(case.whole, reference), self.most, float("inf"))

    def row(
        self, problem: MoEProblem, phase: str, part: str, number: int, *tiles: Sizes, origin: str = "search"
    ) -> Row:
        """Return a row without times, for one tile or (if ``part`` is ``full``) for the tiles of w13 and w2.

        ``phase``: ``compile``, ``search``, ``final`` or ``between``.
        """
        return problem.facts() | {
            "backend": self.backend,
            "routing": self.routing,
            "seed": self.seed,
            "phase": phase,
            "part": part,
            "round": number,
            "w13": text(tiles[0]) if part in ("w13", "full") else None,
            "w2": text(tiles[-1]) if part in ("w2", "full") else None,
            "origin": origin,
            **dict.fromkeys(("repetitions", "median_us", "p20_us", "p80_us", "reference_us")),
            **dict.fromkeys(("correct", "error_max_rel", "bound_max_rel", "error")),
        }

    def _measure(self, case: Case, make: Make, reference: Build, repetitions: int, until: float) -> dict[Any, float]:
        """Return the microseconds of what could be measured, now or before a restart."""
        done = self.journal.rows
        known = {name: done[key(row)] for name, (row, _) in make.items() if key(row) in done}
        base: Step | None = None
        for chunk in self._chunks({name: made for name, made in make.items() if name not in known}, case.room):
            if self.now() > until:
                break
            base = base or (_guarded(reference)[0] or (None,))[0]
            known |= self._chunk(case, chunk, base, repetitions)
            case.tidy()
        # Any reference time serves as the scale: times of different chunks are only compared through their references.
        scale = next((row["reference_us"] for row in known.values() if row["reference_us"]), None)
        return {
            name: row["median_us"] * (scale / row["reference_us"] if scale and row["reference_us"] else 1)
            for name, row in known.items()
            if row["median_us"] is not None
        }

    def _chunks(self, make: Make, room: int) -> Iterable[Make]:
        """Yield what is timed together: alone what a process died with, else as many as there is room for."""
        alone = [name for name, (row, _) in make.items() if list(key(row)) in self.state.alone]
        together = [name for name in make if name not in alone]
        chunks = [[name] for name in alone] + [together[i : i + room] for i in range(0, len(together), room)]
        return ({name: make[name] for name in chunk} for chunk in chunks)

    def _chunk(self, case: Case, make: Make, base: Step | None, repetitions: int) -> dict[Any, Row]:
        dead = {tuple(key): how for key, how in self.state.dead}
        steps: dict[Any, Step] = {} if base is None else {"": base}
        rows: dict[Any, Row] = {}
        for name, (blank, build) in make.items():
            row = rows[name] = blank | {"repetitions": repetitions, "error": dead.get(key(blank))}
            if row["error"] is not None:
                continue
            self.note([key(row)])  # one key, so that a crash here names the tile
            made, row["error"] = _guarded(build)
            if made:
                steps[name], errors = made
                row |= {"correct": True, "error_max_rel": errors.max_rel, "bound_max_rel": case.oracle.bound.max_rel}
            elif str(row["error"]).startswith("wrong"):
                row["correct"] = False
        # All keys: a crash while they are timed cannot tell which it was, so they are then timed one by one.
        self.note([key(row) for name, row in rows.items() if name in steps])
        times, _ = self.clock(steps, repetitions, self.device)
        for name, row in rows.items():
            if times.get(name):
                row |= quantiles_us(times[name])
                row["reference_us"] = quantiles_us(times[""])["median_us"] if times.get("") else None
            self.journal.add(row)
        return rows

    def _share(self, until: float, part: str, keys: Sequence[Key]) -> float:
        """Return when to stop: for the first of two GEMMs, after half of the time left."""
        first = part == keys[0][0] and len({other for other, _ in keys}) > 1
        return self.now() + (until - self.now()) / 2 if first else until


def _guarded(build: Build) -> tuple[tuple[Step, Errors] | None, str | None]:
    """Return the result of a build and None, or None and why it failed; see ``examine.guard``."""
    entry = Entry()
    made: list[tuple[Step, Errors]] = []
    guard(entry, lambda: made.append(build()))
    return (made[0] if made else None), entry.errors.get("full")
