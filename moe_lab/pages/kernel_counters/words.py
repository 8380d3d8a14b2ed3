"""How sentences about expert GEMMs name kernels and sizes and join their parts."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from moe_lab.pages.show.findings import NBSP, number


def who(row: Any) -> str:
    """Name a backend with its tile: ``fused_moe (64x64x32)``."""
    kind = ["persistent"] if not pd.isna(row.persistent) and row.persistent else []
    kind += [] if pd.isna(row.tile) else [str(row.tile)]
    return f"{row.series} ({' '.join(kind) or 'tiles not known'})"


def which(row: Any) -> str:
    """Name a GEMM: ``w13 of fused_moe at M = 16``; a kernel of a report without ranges has only its name."""
    return str(row.series) if pd.isna(row.stage) else f"{row.stage} of {row.series} at M = {row.M:,}"


def gb(size: float) -> str:
    """Return bytes as gigabytes."""
    return f"{number(size / 1e9)}{NBSP}GB"


def each(about: str, parts: Iterable[str]) -> str:
    """Return one sentence of the parts that say something; empty without any."""
    said = [text for text in parts if text]
    return f"{about}: {'; '.join(said)}." if said else ""


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
