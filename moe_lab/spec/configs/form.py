# SPDX-License-Identifier: Apache-2.0
"""What files of tiles and of times may contain: types that msgspec checks, and bounds on what becomes their name."""

import re
from typing import Any

import msgspec

from moe_lab.spec import plugins
from moe_lab.spec.configs.tile import AMD_OWN
from moe_lab.spec.guard.entry import integer, one_line, plain_name
from moe_lab.spec.guard.options import EXPERTS, SIZE, TOKENS

TILES, MEASURED = "moe_lab tiles 1", "moe_lab measured 1"
# Type of what an engine's files say of a tile beyond its six numbers.
Value = str | int | float | bool | None
_GPU = re.compile(r"[A-Za-z0-9][ -.0-\[\]-~]{0,99}")  # printable ASCII without slashes


class Tile(msgspec.Struct):
    """The numbers of a tile."""

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int
    waves_per_eu: int = AMD_OWN[0]
    matrix_instr_nonkdim: int = AMD_OWN[1]
    kpack: int = AMD_OWN[2]


class Point(msgspec.Struct):
    """The tiles of one M; see ``configs.Point``."""

    w13: Tile
    w2: Tile
    us: float | None = None
    one: Tile | None = None
    one_us: float | None = None
    theirs: dict[str, dict[str, Value]] = {}


class Problem(msgspec.Struct):
    """Sizes and format; files from before there were formats have ``dtype`` instead."""

    E: int
    N: int
    K: int
    topk: int
    format: str = ""
    dtype: str = ""

    def sizes(self) -> dict[str, Any]:
        """Return them under the names that ``Tuned`` and ``Measured`` use."""
        sizes = {key: getattr(self, key) for key in ("E", "N", "K", "topk")}
        return sizes | {"format": self.format or self.dtype}


class TilesFile(msgspec.Struct):
    """A file of tiles; see ``configs.Tuned``."""

    format: str
    backend: str
    gpu: str
    problem: Problem
    M: dict[str, Point]
    origin: str = ""
    date: str | None = None
    versions: dict[str, str | None] | None = None
    theirs: dict[str, Value] = {}


class MeasuredFile(msgspec.Struct):
    """A file of times; see ``configs.measured.Measured``."""

    format: str
    gpu: str
    problem: Problem
    us: dict[str, dict[str, float]]
    origin: str = ""
    date: str | None = None
    versions: dict[str, str | None] | None = None


def by_m(given: dict[str, Any]) -> dict[int, Any]:
    """Return a mapping with its keys, decimal text in JSON, as tokens, and sorted by them; ValueError if one is not."""
    found = {integer(key, range(1, TOKENS + 1)): value for key, value in given.items()}
    if not found:
        raise ValueError("it has no M")
    if len(found) < len(given):  # "8" and "08" are two keys
        raise ValueError("it has an M twice")
    return dict(sorted(found.items()))


def check_names(gpu: Any, E: Any, N: Any, K: Any, topk: Any, format: Any, backend: Any = "auto") -> None:
    """Raise ValueError unless they are valid in a file name: they become that of the file and its folder."""
    plain_name(backend, "the backend")
    if not isinstance(gpu, str) or not _GPU.fullmatch(gpu):
        raise ValueError(
            f"the GPU's name is '{one_line(str(gpu), 40)}', not 1 to 100 printable ASCII characters without slashes"
        )
    if format not in (known := plugins.names("formats")):
        raise ValueError(f"the format is '{one_line(str(format), 40)}', not one of {', '.join(known)}")
    most = {"E": EXPERTS, "N": SIZE, "K": SIZE, "topk": EXPERTS}
    for name, value in zip(most, (E, N, K, topk), strict=True):
        if type(value) is not int or not 1 <= value <= most[name]:  # isinstance would let True pass
            raise ValueError(f"{name} is {one_line(str(value), 40)}, not a whole number from 1 to {most[name]}")
    if topk > E:
        raise ValueError(f"topk = {topk} is more than E = {E}")


def check_times(times: Any) -> None:
    """Raise ValueError unless each is a number above zero, or None."""
    if not all(us is None or 0 < us < float("inf") for us in times):  # false for NaN as well
        raise ValueError("a time is not above zero")
