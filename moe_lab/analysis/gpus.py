"""The tables of the expert GEMMs, GPU by GPU: each has roofs and caches of its own and is compared with no other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import pandas as pd

from moe_lab.analysis import limits, roofline, tiles, traffic
from moe_lab.analysis.captures import Captures
from moe_lab.runs import Run


@dataclass(frozen=True)
class Tables:
    """What is known of the GEMMs of one GPU, or of several (``together``); the columns are those of the functions.

    Attributes:
        gpu: its name without the vendor; empty for several.
        amd: whether it is AMD's.
        gemms: ``gemms.gemms``, with the timeline's times where one was joined.
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
    """Return the tables of each GPU that has rows; without any, empty ones of the first.

    The column gpu is in them only where several GPUs have rows.

    Args:
        captures: what was loaded, perhaps with a timeline.
        measured: benchmarks to look for roofs in; by default those that the captures know.
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
    """Return the tables of several GPUs below each other, as they are shown."""
    if len(parts) == 1:
        return parts[0]
    frames = {name: [getattr(part, name) for part in parts] for name in FRAMES}
    whole = {name: pd.concat([f for f in own if len(f)] or own[:1], ignore_index=True) for name, own in frames.items()}
    return Tables("", any(part.amd for part in parts), **whole)
