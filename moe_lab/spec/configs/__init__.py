# SPDX-License-Identifier: Apache-2.0
"""Tuned tiles as data, ``moe_lab/spec/configs/<gpu>/<file>.json``, and how a call chooses among them.

A file holds the tiles of one backend for one (E, N, K, format, GPU) at several M. A call takes those of the M that is
nearest by ratio. Folders in $MOE_LAB_CONFIGS are searched before the package's own. Imports no torch.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moe_lab.spec.configs import form
from moe_lab.spec.configs.tile import AMD_FIELDS, FIELDS, Sizes, checked, parse, text
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import decode_json, one_line, read_bytes, unreadable
from moe_lab.spec.problem import MoEProblem

__all__ = ["FIELDS", "PACKAGE", "Point", "Sizes", "Tuned", "parse", "text"]

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Point:
    """The tiles of one M.

    Attributes:
        M: tokens.
        w13: tile of the w13 GEMM.
        w2: tile of the w2 GEMM; the same block_m.
        us: measured microseconds of a whole layer call; None = not measured here.
        one: the best tile for both GEMMs at once, for engines that take only one; None = not known.
        one_us: measured microseconds with ``one``.
        theirs: w13 or w2 -> what an engine's file says of the tile beyond its numbers.
    """

    M: int
    w13: Sizes
    w2: Sizes
    us: float | None = None
    one: Sizes | None = None
    one_us: float | None = None
    theirs: Mapping[str, Mapping[str, form.Value]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """A file of tuned tiles.

    Attributes:
        backend: experts backend whose kernels take them.
        gpu: the GPU's own name.
        E: experts.
        N: expert intermediate size.
        K: hidden size.
        topk: experts per token that they were tuned with.
        format: number format, by its name in ``moe_lab.spec.formats``.
        points: one per M, sorted by M.
        origin: the run, or the file of another project.
        date: of the measurement; None = not known.
        versions: of the software that shaped the result.
        theirs: what an engine's file says beside its tiles.

    Raises:
        ValueError: an invalid name or size.
    """

    backend: str
    gpu: str
    E: int
    N: int
    K: int
    topk: int
    format: str
    points: tuple[Point, ...]
    origin: str = ""
    date: str | None = None
    versions: Mapping[str, Any] | None = None
    theirs: Mapping[str, form.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        form.check_names(self.gpu, self.E, self.N, self.K, self.topk, self.format, self.backend)

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return file_name(self.backend, self.E, self.N, self.K, self.format)

    def nearest(self, M: int, topk: int) -> Point:
        """Return the point whose rows, M * topk, are nearest by ratio; of two equally near, that with more rows."""
        by_m = {point.M: point for point in self.points}
        return by_m[nearest(by_m, self.topk, M * topk)]


def nearest(known: Iterable[int], topk: int, rows: int) -> int:
    """Return the known M whose rows, M * topk, are nearest by ratio; of two equally near, the larger."""
    rows = max(1, rows)  # M = 0 has no ratio

    def distance(M: int) -> tuple[float, int]:
        own = max(1, M * topk)
        return max(own / rows, rows / own), -own

    return min(known, key=distance)


def file_name(backend: str, E: int, N: int, K: int, format: str) -> str:
    """Return the name of a file of tiles."""
    return f"E={E},N={N},K={K},format={format},backend={backend}.json"


def folders() -> tuple[Path, ...]:
    """Return the folders in which files are looked up, in that order."""
    return _folders(os.environ.get("MOE_LAB_CONFIGS", ""))


@cache  # a lookup is part of every eager call of a backend, whose launch it delays
def _folders(named: str) -> tuple[Path, ...]:
    return (*(Path(part) for part in named.split(os.pathsep) if part), PACKAGE)


def files() -> list[Path]:
    """Return every file of tiles that a lookup may find."""
    return [path for folder in folders() for path in sorted(folder.glob("*/E=*,backend=*.json"))]


def find(backend: str, problem: MoEProblem, gpu: str | None) -> Tuned | None:
    """Return the tuned tiles of a backend for the sizes, the format and the GPU's own name, if there are any."""
    name = file_name(backend, problem.E, problem.N, problem.K, problem.format)
    found: Tuned | None = lookup(folders(), name, gpu, read)
    return found


@cache
def lookup(places: tuple[Path, ...], name: str, gpu: str | None, read: Callable[[Path], Any]) -> Any:
    """Return what ``read`` makes of the first file with the name and for the GPU; None if there is none, or no GPU."""
    # The file says which GPU it is for; the name of its folder is for people.
    found = (read(path) for place in places if gpu for path in sorted(place.glob(f"*/{name}")))
    return next((known for known in found if known.gpu == gpu), None)


def tiles(backend: str, problem: MoEProblem, gpu: str | None) -> tuple[Sizes, Sizes] | None:
    """Return the tuned tiles of w13 and w2 for a call, or None; see ``find``."""
    tuned = find(backend, problem, gpu)
    if tuned is None:
        return None
    point = tuned.nearest(problem.M, problem.topk)
    return point.w13, point.w2


def read(path: Path) -> Tuned:
    """Read a file of tiles; UserError if it is not one."""
    try:
        known: form.TilesFile = decode_json(read_bytes(path), form.TilesFile)
        if known.format != form.TILES:
            raise ValueError(f"its format is '{known.format}', not '{form.TILES}'")
        points = tuple(_point(M, given) for M, given in form.by_m(known.M).items())
        sizes = known.problem.sizes()
        named = {key: getattr(known, key) for key in ("origin", "date", "versions", "theirs")}
        return Tuned(known.backend, known.gpu, **sizes, points=points, **named)
    except ValueError as error:
        raise unreadable(path, "tuned tiles", error, "make it with moe-lab tune") from None


def _point(M: int, given: form.Point) -> Point:
    w13, w2 = _sizes(given.w13), _sizes(given.w2)
    if w13[0] != w2[0]:  # one align call pads the rows for both GEMMs
        raise ValueError(f"w13 and w2 of M = {M} differ in block_m")
    form.check_times((given.us, given.one_us))
    return Point(M, w13, w2, given.us, _sizes(given.one) if given.one else None, given.one_us, given.theirs)


def _sizes(given: form.Tile) -> Sizes:
    return checked([getattr(given, name) for name in (*FIELDS, *AMD_FIELDS)])


def write(tuned: Tuned, folder: Path) -> Path:
    """Write a file of tiles into a folder; return its path."""
    known = asdict(tuned)
    head = {"format": form.TILES, "backend": known.pop("backend"), "gpu": known.pop("gpu")}
    head["problem"] = {key: known.pop(key) for key in ("E", "N", "K", "topk", "format")}
    points = {str(point.pop("M")): point for point in known.pop("points")}
    for point in points.values():
        tiles = {part: point[part] for part in ("w13", "w2", "one") if point[part]}
        point |= {part: dict(zip((*FIELDS, *AMD_FIELDS), tile, strict=False)) for part, tile in tiles.items()}
    known["versions"] = known["versions"] or {}
    for part in (known, *points.values()):
        if not part["theirs"]:  # only tiles that came from an engine have it
            del part["theirs"]
    return save(head | known | {"M": points}, folder / tuned.file_name)


def save(known: Mapping[str, Any], path: Path, indent: int = 1) -> Path:
    """Write a file of data; return its path.

    Raises:
        UserError: nothing can be written there.
    """
    # Under a temporary name first: a lookup of another process never sees half a file.
    text = json.dumps(known, indent=indent) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.stem[:100]}.", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                os.fchmod(handle, 0o644)  # mkstemp lets only the owner read
                file.write(text)
            os.replace(partial, path)
            lookup.cache_clear()
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise UserError(
            f"'{one_line(path.name)}' cannot be written to '{one_line(path.parent.name)}' ({error.strerror}); choose "
            "another folder with --out."
        ) from None
    return path
