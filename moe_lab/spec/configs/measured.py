# SPDX-License-Identifier: Apache-2.0
"""How long each experts backend took, as data: ``moe_lab/spec/configs/<gpu>/measured,<file>.json``. Imports no torch.

A file holds, for one (E, N, K, format, GPU), the median times of our backends at several M. A call takes the backend
that was fastest at the nearest M by ratio. Folders in $MOE_LAB_CONFIGS are searched before the package's own.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_lab.spec import configs
from moe_lab.spec.configs import form
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import decode_json, one_line, read_bytes, unreadable
from moe_lab.spec.problem import MoEProblem

# Backend -> the kernel that only it launches, by its name now and in older runs.
KERNELS = {
    "hopper": ("hopper_moe", "hopper_few"),
    "grouped": ("grouped_persistent_gemm_kernel", "persistent_gemm_kernel"),
    "fused_moe": ("fused_moe_gemm_kernel", "grouped_gemm_kernel"),
}
SIZES = ("E", "N", "K", "topk", "format")


@dataclass(frozen=True)
class Measured:
    """A file of times.

    Attributes:
        gpu: the GPU's own name.
        E: experts.
        N: expert intermediate size.
        K: hidden size.
        topk: experts per token.
        format: number format, by its name in ``moe_lab.spec.formats``.
        us: M -> backend -> median microseconds of a layer call in a CUDA graph, cold L2, uniform routing.
        origin: the run.
        date: of the measurement.
        versions: of the software that shaped the result.

    Raises:
        ValueError: an invalid name or size.
    """

    gpu: str
    E: int
    N: int
    K: int
    topk: int
    format: str
    us: Mapping[int, Mapping[str, float]]
    origin: str = ""
    date: str | None = None
    versions: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        form.check_names(self.gpu, self.E, self.N, self.K, self.topk, self.format)

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return _file_name(self.E, self.N, self.K, self.format)

    def quickest(self, M: int, topk: int, backends: Collection[str]) -> str | None:
        """Return the backend, of those given, that was fastest at the nearest M; None if none of them was measured."""
        known = {m: {b: us for b, us in times.items() if b in backends} for m, times in self.us.items()}
        known = {m: times for m, times in known.items() if times}  # so the nearest M is one that can decide
        if not known:
            return None
        times = known[configs.nearest(known, self.topk, M * topk)]
        return min(times, key=times.__getitem__)


def _file_name(E: int, N: int, K: int, format: str) -> str:
    return f"measured,E={E},N={N},K={K},format={format}.json"


def find(problem: MoEProblem, gpu: str | None) -> Measured | None:
    """Return the times for the sizes, the format and the GPU, if there are any; see ``configs.find``."""
    name = _file_name(problem.E, problem.N, problem.K, problem.format)
    found: Measured | None = configs.lookup(configs.folders(), name, gpu, read)
    return found


def choice(gpu: str | None) -> str:
    """Return a sentence on what ``auto`` does on a GPU of this name; None = no GPU."""
    if gpu is None:
        return "no GPU is seen: on the CPU it takes fused_moe with its default tiles."
    places = configs.folders()
    times = [m for place in places for path in sorted(place.glob("*/measured,*.json")) if (m := read(path)).gpu == gpu]
    tiles = [t for path in configs.files() if (t := configs.read(path)).gpu == gpu and t.backend == "fused_moe"]
    sizes = ", ".join(dict.fromkeys(f"E={m.E} N={m.N} K={m.K} {m.format}" for m in times))
    tiled = ", ".join(dict.fromkeys(f"E={t.E} N={t.N} K={t.K} {t.format}" for t in tiles))
    else_ = "hopper where that fits (compute capability 9.0, fp16 or bf16, K and N multiples of 64), else fused_moe"
    known = f"the fastest as measured at {sizes}; elsewhere" if times else f"no times for {gpu}: it takes"
    return f"{known} {else_}, whose tiles are {f'tuned at {tiled}, else ' if tiles else ''}its own defaults."


def read(path: Path) -> Measured:
    """Read a file of times; UserError if it is not one."""
    try:
        known: form.MeasuredFile = decode_json(read_bytes(path), form.MeasuredFile)
        if known.format != form.MEASURED:
            raise ValueError(f"its format is '{known.format}', not '{form.MEASURED}'")
        us = form.by_m(known.us)
        form.check_times(time for times in us.values() for time in times.values())
        sizes = known.problem.sizes()
        named = {key: getattr(known, key) for key in ("origin", "date", "versions")}
        return Measured(known.gpu, **sizes, us=us, **named)
    except ValueError as error:
        raise unreadable(path, "times of backends", error, "make it with moe-lab configs import RUN") from None


def write(measured: Measured, folder: Path) -> Path:
    """Write a file of times into a folder; return its path."""
    known = asdict(measured)
    sizes = {key: known.pop(key) for key in SIZES}
    us = {str(M): times for M, times in sorted(known.pop("us").items())}
    return configs.save({"format": form.MEASURED, **known, "problem": sizes, "us": us}, folder / measured.file_name)


def of_run(rows: Any, manifest: Mapping[str, Any]) -> list[Measured]:
    """Return the times in a run of ``moe-lab bench experts``, one for each model and format.

    Rows of ``auto`` count for the backend whose kernel they launched, if the run records kernels.

    Args:
        rows: its rows, a DataFrame.
        manifest: its ``run.json``: name, gpu, date, versions.

    Raises:
        UserError: the rows lack a column, or have invalid values.
    """
    try:
        return _times(rows, manifest)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {one_line(str(error), 60)}"
        raise UserError(f"The rows of '{manifest['name']}' yield no times ({said}); measure again.") from None


def _times(rows: Any, manifest: Mapping[str, Any]) -> list[Measured]:
    kept = rows[(rows["part"] == "full") & (rows["mode"] == "graph") & (rows["routing"] == "uniform")]
    kept = kept[kept["median_us"].notna()]
    out = []
    for sizes, own in kept.groupby(list(SIZES)):
        us: dict[int, dict[str, float]] = {}
        for row in own.itertuples():
            backend = _ours(str(row.backend), str(row.kernels_us))
            if backend:
                us.setdefault(int(row.M), {})[backend] = float(row.median_us)
        if not us:
            continue
        named: dict[str, Any] = dict(zip(SIZES, sizes, strict=True))
        named |= {key: int(named[key]) for key in SIZES if key != "format"}
        named |= {"origin": str(manifest["name"]), "date": manifest.get("date"), "versions": manifest.get("versions")}
        out.append(Measured(str((manifest.get("gpu") or {}).get("name") or "unknown"), us=us, **named))
    return out


def _ours(backend: str, kernels: str) -> str | None:
    if backend == "auto":
        return next((ours for ours, names in KERNELS.items() if any(f"|{name}" in kernels for name in names)), None)
    return backend if backend in KERNELS else None
