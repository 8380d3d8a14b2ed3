# SPDX-License-Identifier: Apache-2.0
"""The matrix of backends and formats: what plugins state, what committed runs tried, and what works on a GPU.

A cell is a backend in a format. What it takes comes from the plugin's ``INFO``; where it was tried, from the rows of
the experts benchmark. A format stands for its family: groups of 32 and of 128 are one cell.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from moe_lab.analysis.align import Bench
from moe_lab.analysis.sweep import Sweep
from moe_lab.spec import formats, peers, plugins
from moe_lab.spec.architectures import Card, cards

ELSEWHERE = Path(peers.__file__).with_name("kernels.csv")
COLUMNS = ["backend", "format", "activations", "inputs", "on_input", "adds_biases", "hardware", "here"]
COLUMNS += ["tried_on", "tried_M", "releases", "error_worst", "rows_failed", "why_failed"]
# What a backend said of a format that it does not take.
REFUSALS = " does not take .* here, only: | does not run on the CPU; | cannot be captured"


def matrix(gpu: str | None, sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """Return one row per backend and format that it states.

    Args:
        gpu: name of the GPU that ``here`` is about, as its driver gives it; None = there is none.
        sweeps: runs of the experts benchmark.

    Returns:
        ``COLUMNS``: what the plugin states; ``here``: ``works``, or why not; the GPUs, range of M and releases that
        runs tried it with, their largest RMS error against the oracle, how many whole calls failed and why. NA in what
        no run says.
    """
    tried, rows = _tried(sweeps), []
    for backend in plugins.names("experts"):
        info = plugins.info("experts", backend)
        for name in dict.fromkeys(_family(f) for f in info["formats"]):
            stated = {
                "activations": " ".join(info["activations"]),
                "inputs": " ".join(info.get("inputs", ["standard"])),
                "on_input": "yes",  # every backend is tested for it
                "adds_biases": "yes" if formats.adds_biases(info, name) else "no",
                "hardware": needs(info["hardware"], name),
                "here": here(backend, name, gpu),
            }
            rows.append({"backend": backend, "format": name, **stated, **tried.get((backend, name), {})})
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def here(backend: str, format: str, gpu: str | None) -> str:
    """Return ``works`` if a backend can do a format on a GPU of that name, or on the CPU for None; else why not."""
    info = plugins.info("experts", backend)
    if reason := plugins.unavailable("experts", backend):
        return reason
    if gpu is None:
        known = format in info.get("cpu_formats", info["formats"])
        return "works on the CPU" if known else "needs a GPU"
    card = next((card for card in cards() if card.name == gpu), None)
    if card is None:
        return f"not known: {gpu} is not in spec/architectures.csv"
    wanted = needs(info["hardware"], format)
    return "works" if _has(card, wanted) else f"needs {wanted}"


def needs(hardware: str, format: str) -> str:
    """Return the GPUs for a format out of what a plugin states, such as ``NVIDIA SM89+ (fp8_block: SM90)``."""
    own = re.search(rf"\({re.escape(format)}: ([^)]*)\)", hardware)
    wanted = own[1] if own else re.sub(r" \([^)]*\)", "", hardware).split(";")[0]
    # Kernels in Triton multiply in e4m3 from here on.
    return "NVIDIA SM89+" if formats.get(format).product == "e4m3" and "SM80+" in wanted else wanted


def _has(card: Card, wanted: str) -> bool:
    if wanted == "any" or "through pointers" in wanted:
        return True
    if card.amd:
        return "AMD" in wanted and card.arch != "gfx90a"  # they are CDNA3 and later
    own = int(card.arch.removeprefix("sm_"))
    return any(own == int(least) or (more and own > int(least)) for least, more in re.findall(r"SM(\d+)(\+?)", wanted))


def grid(cells: pd.DataFrame) -> pd.DataFrame:
    """Return backends by formats: the GPUs that a cell was tried on, ``stated`` if none, empty if it is not taken."""
    known = cells.assign(cell=cells["tried_on"].fillna("stated"))
    table = known.pivot(index="backend", columns="format", values="cell").fillna("")
    return table[list(dict.fromkeys(cells["format"]))].reset_index().rename_axis(columns=None)


def of(cells: pd.DataFrame, format: str) -> pd.DataFrame:
    """Return the cells of one format; all for an empty name."""
    return cells[cells["format"] == format] if format else cells


def elsewhere(cells: pd.DataFrame, aligned: Sequence[Bench] = ()) -> pd.DataFrame:
    """Return kernels that engines list, with the adapter here, or why there is none and what it would need.

    Args:
        cells: of ``matrix``.
        aligned: runs of the align benchmark.

    Returns:
        The columns of ``spec/peers/kernels.csv``, then tried_on and releases of all cells of the adapter; NA if no run
        tried it. Of an align & sort, tried_on says which GPUs ``aligned`` has it on.
    """
    table = pd.read_csv(ELSEWHERE, dtype="string", keep_default_na=False)
    tried = cells[cells["tried_on"].notna()].groupby("backend")[["tried_on", "releases"]].agg(_together)
    table = table.join(tried, on="backend")
    sorts: dict[str, set[str]] = {}
    for bench in aligned:
        for name in bench.timed["algorithm"].unique():
            sorts.setdefault(str(name), set()).add(str(bench.gpu).split()[0])
    on = table["backend"].map({name: ", ".join(sorted(gpus)) for name, gpus in sorts.items()})
    # auto is the name of one of each.
    return table.assign(tried_on=table["tried_on"].mask(table["kernel"] == "align & sort", on.astype("string")))


def _together(lists: "pd.Series[Any]") -> Any:
    """Return every part of several comma-separated lists once; NA for none."""
    return ", ".join(sorted({part for text in lists.dropna() for part in str(text).split(", ")})) or pd.NA


@cache
def _family(format: str) -> str:
    return formats.get(format).family or format


def _tried(sweeps: Sequence[Sweep]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (backend, format) -> what runs say of it: whole calls with the model's own activation."""
    parts = [sweep.rows[sweep.rows["part"] == "full"].assign(gpu=sweep.gpu) for sweep in sweeps if len(sweep.rows)]
    if not parts:
        return {}
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["format"].isin(plugins.names("formats"))]
    keys = [rows["backend"].str.partition("@")[0], rows["format"].map(_family)]
    return {(str(name), str(format)): _said(part) for (name, format), part in rows.groupby(keys)}


def _said(rows: pd.DataFrame) -> dict[str, Any]:
    # A backend that did not take the format when the run was made has not failed in it.
    refused = rows["error"].str.contains(REFUSALS, na=False)
    right, wrong = rows[rows["median_us"].notna()], rows[rows["error"].notna() & ~refused]
    # Early runs kept the last line of an error, which may be one of its C++ stack.
    why = wrong["error"].str.replace(r": frame #\d.*", ", of which the run has no more than its stack", regex=True)
    said: dict[str, Any] = {"rows_failed": len(wrong), "why_failed": why.iloc[0] if len(wrong) else pd.NA}
    if right.empty:
        return said
    M, errors = right["M"].astype(int), pd.to_numeric(right["error_rms_rel"], errors="coerce")
    return said | {
        "tried_on": ", ".join(sorted({str(gpu).split()[0] for gpu in right["gpu"]})),
        "tried_M": f"{M.min():,} to {M.max():,}",
        "releases": ", ".join(sorted(right["version"].dropna().unique())) or pd.NA,
        "error_worst": errors.max(),
    }
