# SPDX-License-Identifier: Apache-2.0
"""Compiled code over architectures, and on AMD beside published figures."""

from typing import Any

import pandas as pd

from moe_lab.analysis import static
from moe_lab.spec import published

WORST = {"static_registers": "max", "spills": "max", "static_occupancy_pct": "min", "load_bytes": "min"}
AMD = ["static_vgprs", "static_agprs", "static_sgprs", "static_smem_bytes", "sgpr_spills", "vgpr_spills"]
AMD += ["static_occupancy_pct"]
PUBLISHED = {"vgprs": "static_vgprs", "sgprs": "static_sgprs", "lds_bytes": "static_smem_bytes"}


def over_architectures(rows: pd.DataFrame, tokens: int = 0) -> pd.DataFrame:
    """Return what a kernel is on each architecture: the worst of its launches at one M.

    Args:
        rows: rows of ``moe-lab inspect``.
        tokens: M; 0 takes the largest.

    Returns:
        Columns ``what`` (algorithm or stage, kernel, format), ``arch`` and those of ``WORST``: ``spills`` as in
        ``static.kernels``, ``load_bytes`` as ``load_bytes`` below. Launches without code are left out.
    """
    known = rows[rows["error"].isna()]
    known = known[known["M"] == (tokens or known["M"].max())]
    several = known["backend"].nunique() > 1
    shown = known.assign(
        what=[_what(row, several) for row in known.itertuples(index=False)],
        spills=static.spills(known),
        load_bytes=pd.array([load_bytes(row) for row in known.itertuples(index=False)], dtype="Float64"),
    )
    return shown.groupby(["what", "arch"], sort=False).agg(WORST).reset_index()


def _what(row: Any, backends: bool) -> str:
    kernel = str(row.kernel).removesuffix("_kernel")
    if pd.notna(row.algorithm):
        return f"{row.algorithm}: {kernel}"
    return f"{f'{row.backend} ' if backends else ''}{row.stage}: {kernel}, {row.format}"


def load_bytes(row: Any) -> float | None:
    """Return the mean bytes that a thread gets per load from global memory; in the inner loop, if that loads.

    None if nothing is loaded, or by TMA, whose loads have no width.
    """
    of = next((given for given in (row.loop_loads, row.loads) if isinstance(given, list) and given), [])
    count = sum(number for _, number in of)
    return sum(int(width) * number for width, number in of) / count if count else None


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``over_architectures`` with a row per kernel and columns ``<column> <arch>``."""
    each = [
        part.drop(columns="arch").set_index("what").add_suffix(f" {arch}")
        for arch, part in table.groupby("arch", sort=False)
    ]
    return pd.concat(each, axis=1).reindex(table["what"].unique()).rename_axis("what").reset_index()


def amd(rows: pd.DataFrame, beside_published: bool = False) -> pd.DataFrame:
    """Return the kernels on AMD, a row per launch that differs: registers, LDS, spills, occupancy.

    Args:
        rows: rows of ``moe-lab inspect``; those of other architectures are left out.
        beside_published: whether the published align kernels follow.

    Returns:
        Columns ``of`` (algorithm, backend, or that it is published), ``stage``, ``kernel``, ``format``, ``M``,
        ``arch``, ``AMD``.
    """
    ours = rows[rows["arch"].str.startswith("gfx") & rows["error"].isna()]
    ours = ours.assign(of=ours["algorithm"].fillna(ours["backend"]))
    columns = ["of", "stage", "kernel", "format", "M", "arch", *AMD]
    shown = ours.reindex(columns=columns).drop_duplicates()  # runs without an AMD architecture lack some
    if not beside_published:
        return shown.reset_index(drop=True)
    theirs = published.align_amd().rename(columns=PUBLISHED).assign(of="published", arch=published.ALIGN_AMD.label)
    return pd.concat([shown, theirs.reindex(columns=[*shown])], ignore_index=True)
