# SPDX-License-Identifier: Apache-2.0
"""Memory of AMD kernels: bytes moved at each level, and the roofline."""

import math
from typing import Any

import pandas as pd

from moe_lab.analysis.amd import kernels
from moe_lab.analysis.amd.evaluation import nullable
from moe_lab.spec.launches import Launches

# Level -> (metrics whose sum is the bytes of a launch, hit rate, achieved bandwidth).
LEVELS = {
    "LDS": (("lds_bytes",), None, "lds_gb_per_s"),
    "vL1D": (("vl1d_bytes",), "vl1d_hit_pct", "vl1d_gb_per_s"),
    "L2": (("l1_l2_read_bytes", "l1_l2_write_bytes", "l1_l2_atomic_bytes"), "l2_hit_pct", None),
    "HBM": (("fabric_read_bytes", "fabric_write_bytes"), None, None),
}
ROOFS = {"HBM": "HBMBw", "L2": "L2Bw", "vL1D": "L1Bw", "LDS": "LDSBw"}


def traffic(launches: Launches, limit: int = 0) -> pd.DataFrame:
    """Return the bytes that one launch moves at each level of memory, of the ``limit`` longest kernels (0 = all).

    Returns:
        One row per kernel and level (LDS; vL1D; L2: what passes between vL1D and L2; HBM: with remote memory): bytes,
        read_bytes, write_bytes, atomic_bytes (NA where they are not counted apart), hit_pct, gb_per_s.
    """
    table = kernels(launches, limit)
    rows = []
    for row in table.to_dict("records"):
        for level, (parts, hit, rate) in LEVELS.items():
            known = {p: _number(row.get(p)) for p in parts}
            total = sum(known.values())
            ns = 1e6 * _number(row["total_ms"]) / row["launches"]  # bytes per ns are GB/s
            own = {"kernel": row["name"], "level": level, "bytes": total}
            own |= {f"{w}_bytes": next((v for p, v in known.items() if f"_{w}_" in p), math.nan) for w in _WAYS}
            own["hit_pct"] = _number(row.get(hit)) if hit else math.nan
            rows.append(own | {"gb_per_s": _number(row.get(rate)) if rate else total / ns})
    out = pd.DataFrame(rows)
    return nullable(out, [str(c) for c in out if c not in ("kernel", "level")])


_WAYS = ("read", "write", "atomic")


def _number(value: Any) -> float:
    return math.nan if value is None or pd.isna(value) else float(value)


def roofline(launches: Launches) -> pd.DataFrame:
    """Return one point per kernel and level of memory.

    Returns:
        Columns kernel, level, flop_per_byte (executed FLOP over the bytes that the level moves), gflop_per_s; NA where
        operations, bytes or the duration are not known, and for kernels without floating-point operations.
    """
    points = traffic(launches)[["kernel", "level", "bytes"]]
    counted = kernels(launches).set_index("name").reindex(columns=["valu_flop", "mfma_flop", "total_ms", "launches"])
    own = counted.astype("Float64").loc[points["kernel"]].reset_index(drop=True)
    flop = own["valu_flop"] + own["mfma_flop"]
    flop = flop.where(flop > 0)
    points["flop_per_byte"] = flop / points["bytes"].where(points["bytes"] > 0)
    points["gflop_per_s"] = flop / (1e6 * own["total_ms"] / own["launches"])
    return points.drop(columns="bytes")


def roofs(launches: Launches) -> pd.DataFrame:
    """Return the measured roofs of the first device: kind (bandwidth, compute), name, value (GB/s, GFLOP/s).

    They are those of roofline.csv; without that file there are no rows.
    """
    rows = launches.meta.get("roofs") or []
    first: dict[str, Any] = {k: v for k, v in (rows[0] if rows else {}).items() if pd.notna(v)}
    levels = {theirs: ours for ours, theirs in ROOFS.items()}
    out = [{"kind": "bandwidth", "name": levels[k], "value": float(v)} for k, v in first.items() if k in levels]
    compute = {k: v for k, v in first.items() if k.endswith(("Flops", "Ops"))}
    out += [{"kind": "compute", "name": _roof_name(k), "value": float(v)} for k, v in compute.items()]
    return pd.DataFrame(out, columns=["kind", "name", "value"])


def _roof_name(column: str) -> str:
    """Return ``MFMA BF16`` for ``MFMABF16Flops`` and ``VALU FP32`` for ``FP32Flops``."""
    text = column.removesuffix("Flops").removesuffix("Ops")
    return f"MFMA {text.removeprefix('MFMA')}" if text.startswith("MFMA") else f"VALU {text}"
