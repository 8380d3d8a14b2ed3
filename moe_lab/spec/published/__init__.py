# SPDX-License-Identifier: Apache-2.0
"""Figures that others published: never our own, and marked as theirs wherever they are shown.

Each file of this folder begins with lines ``# key: text`` that say where its figures come from; a CSV table follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Source:
    """Where published figures come from, and why ours may differ.

    Attributes:
        label: short name for a table heading or a bar, such as ``1x L40``.
        setup: GPU, software, model and precision of the measurement.
        caveat: what may and may not be compared.
        also: the other keys of the file.
        model: our preset of the model; empty = none.
    """

    label: str
    setup: str
    caveat: str
    also: Mapping[str, str]
    model: str = ""


def _head(name: str) -> dict[str, str]:
    lines = (Path(__file__).parent / f"{name}.csv").read_text("utf-8").splitlines()
    pairs = (line[2:].partition(": ") for line in lines if line.startswith("# "))
    return {key: text for key, _, text in pairs}


def source(name: str) -> Source:
    """Return where the figures of a file come from.

    Args:
        name: of the file, without ``.csv``.
    """
    head = _head(name)
    known = {key: head.pop(key, "") for key in ("label", "setup", "caveat", "model")}
    return Source(**known, also=head)


def table(name: str) -> pd.DataFrame:
    """Return the figures of a file, a row per line; NA where nothing was published.

    Args:
        name: of the file, without ``.csv``.
    """
    return pd.read_csv(Path(__file__).parent / f"{name}.csv", skiprows=len(_head(name)))


L40, L40_COUNTERS, SWEEP, ALIGN_H200, ALIGN_AMD = map(
    source, ("layer_l40", "w13_l40", "sweep_l40", "align_h200", "align_amd")
)
ALIGN_PEERS = ALIGN_H200.also


def layer_table() -> pd.DataFrame:
    """Return the published time of one decoder layer on an L40, one row per phase and range.

    Returns:
        Columns ``phase``, ``name`` (range: layers.0, self_attn, mlp, w13, w2), ``time_ms``, ``pct_of_layer``,
        ``published`` (always True) and ``source``.
    """
    rows = table("layer_l40")
    layer = rows.groupby("phase")["time_ms"].transform("first")  # the file lists the layer itself first
    pct = 100 * rows["time_ms"] / layer
    return rows.assign(pct_of_layer=pct, published=True, source=f"{L40.label}: {L40.setup}")


def stage_shares() -> pd.DataFrame:
    """Return ``layer_table`` split into parts that add up to the layer.

    Returns:
        Columns ``phase``, ``stage`` (self_attn, w13, w2, ``rest of mlp``, ``rest of layer``), ``time_ms``,
        ``pct_of_layer``, ``published``.
    """
    parts = []
    for phase, rows in table("layer_l40").groupby("phase", sort=False):
        ms = rows.set_index("name")["time_ms"]
        # Published ranges nest (w13 and w2 are within mlp), so stacked bars need what is left of each.
        ms["rest of mlp"] = ms["mlp"] - ms["w13"] - ms["w2"]
        ms["rest of layer"] = ms["layers.0"] - ms["self_attn"] - ms["mlp"]
        own = ms[["self_attn", "w13", "w2", "rest of mlp", "rest of layer"]].rename_axis("stage").reset_index()
        parts.append(own.assign(phase=phase, pct_of_layer=100 * own["time_ms"] / ms["layers.0"], published=True))
    return pd.concat(parts, ignore_index=True)


def align_peers() -> pd.DataFrame:
    """Return what other projects' align kernels took on another H200.

    Returns:
        Columns ``tokens``, ``E``, ``topk`` and those of ``ALIGN_PEERS`` (us; NA where not measured).
    """
    return table("align_h200").convert_dtypes()


def align_amd() -> pd.DataFrame:
    """Return the published counters of the align kernels on AMD, one row per kernel.

    Returns:
        Columns ``kernel``, ``vgprs``, ``sgprs``, ``lds_bytes`` (rounded to kB), ``active_cus``, ``l1_hit_pct``,
        ``coalescing_pct``, ``l1_utilisation_pct``, ``cycles_k``; NA where nothing was published.
    """
    return table("align_amd").convert_dtypes()


def w13_counters() -> pd.DataFrame:
    """Return the published counters of the w13 GEMM on an L40, one row per kernel and M.

    Returns:
        Columns ``backend``, ``M``, ``stage``, ``duration_us``, ``grid_blocks``, ``block_threads``,
        ``sm_throughput_pct``, ``mem_throughput_pct``, ``published`` (always True).
    """
    return table("w13_l40").assign(published=True)


def sweep_table() -> pd.DataFrame:
    """Return the published times of two experts backends over M on an L40.

    Returns:
        Columns ``M``, ``triton_kernels_ms``, ``sglang_ms``, ``speedup`` (SGLang over triton-kernels).
    """
    return table("sweep_l40").assign(speedup=lambda t: t["sglang_ms"] / t["triton_kernels_ms"])
