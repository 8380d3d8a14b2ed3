# SPDX-License-Identifier: Apache-2.0
"""The tables of the expert GEMMs for each GPU: each has its own roofs and caches, and none is compared with another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import pandas as pd

from moe_lab.analysis import limits, roofline, tiles, traffic
from moe_lab.analysis.captures import Captures
from moe_lab.runs import Run


@dataclass(frozen=True)
class Tables:
    """The tables on the GEMMs of one GPU, or of several (``together``); columns are those of the functions named here.

    Attributes:
        gpu: its name without the vendor; empty for several GPUs.
        amd: whether it is an AMD GPU, or one of them is.
        gemms: ``gemms.gemms``, with times of the timeline if one was joined.
        roofs: ``roofline.roofs``.
        limits: ``limits.limits``, in the order of ``gemms``.
        moved: ``traffic.traffic``.
        others: ``traffic.other_tiles``.
        costs: ``roofline.ceilings``.
        points: ``roofline.points``.
        switched: ``tiles.switches``.
    """

    gpu: str
    amd: bool
    gemms: pd.DataFrame
    roofs: pd.DataFrame
    limits: pd.DataFrame
    moved: pd.DataFrame
    others: pd.DataFrame
    costs: pd.DataFrame
    points: pd.DataFrame
    switched: pd.DataFrame


FRAMES = tuple(f.name for f in fields(Tables) if f.name not in ("gpu", "amd"))


def each(captures: Captures, measured: Iterable[Run] | None = None) -> list[Tables]:
    """Return the tables of each GPU that has rows; if none has, the empty tables of the first.

    They have a column gpu only if several GPUs have rows.

    Args:
        captures: what was loaded, perhaps with a timeline.
        measured: benchmarks in which roofs are looked for; by default ``captures.known``.
    """
    known = list(captures.known if measured is None else measured)
    found = [gpu for gpu in captures.gpus if (captures.table["gpu"] == gpu).any()] or [*captures.gpus][:1] or [""]
    return [_tables(captures, gpu, len(found) > 1, known) for gpu in found]


def _tables(captures: Captures, gpu: str, several: bool, measured: Sequence[Run]) -> Tables:
    facts = captures.gpus.get(gpu, {})
    table = captures.table[captures.table["gpu"] == gpu].drop(columns="gpu").reset_index(drop=True)
    roofs, l2_bytes = roofline.roofs(facts, measured), facts.get("l2_cache_bytes")
    made = {
        "gemms": table,
        "roofs": roofs,
        "limits": limits.limits(table, roofs),
        "moved": traffic.traffic(table, l2_bytes),
        "others": traffic.other_tiles(table, l2_bytes),
        "costs": roofline.ceilings(table, roofs, l2_bytes),
        "points": roofline.points(table, l2_bytes),
        "switched": tiles.switches(table),
    }
    own = {name: frame.assign(gpu=gpu) if several else frame for name, frame in made.items()}
    return Tables(gpu, str(facts.get("name")).startswith("AMD"), **own)


def together(parts: Sequence[Tables]) -> Tables:
    """Return the tables of several GPUs concatenated, as they are shown."""
    if len(parts) == 1:
        return parts[0]
    frames = {name: [getattr(part, name) for part in parts] for name in FRAMES}
    # pandas warns of empty tables in a concat, as they may change the types.
    whole = {name: pd.concat([f for f in own if len(f)] or own[:1], ignore_index=True) for name, own in frames.items()}
    return Tables("", any(part.amd for part in parts), **whole)
