# SPDX-License-Identifier: Apache-2.0
"""The source of a compiled kernel beside its machine code: a page per kernel, and an index of them.

A page needs no network and no other file. It exists only where kernels were compiled, because only there are the source
and the listing.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from moe_lab.analysis import static
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.static import RULES
from moe_lab.pages.show.tables import rounded
from moe_lab.pages.static import findings
from moe_lab.report import code_parts
from moe_lab.report.files import render, replace
from moe_lab.runs import assembly
from moe_lab.runs.assembly import Listing
from moe_lab.spec import schema
from moe_lab.spec.guard.entry import read_text

FACTS = (
    *("num_warps", "num_stages", "static_registers", "static_vgprs", "static_agprs", "static_sgprs"),
    *("static_smem_bytes", "stack_bytes", "local_accesses", "vgpr_spills", "sgpr_spills", "static_occupancy_pct"),
    *("occupancy_limit", "loop_instructions", "loop_not_tensor_pct", "code_bytes"),
)
SAID = "Code compiled by moe_lab"  # at the end of every page, by its template


@dataclass
class Pages:
    """Pages of the kernels of one run; a kernel that several launches share has one page.

    Attributes:
        rows: the rows of each page, of launches with the same code.
    """

    rows: list[list[Mapping[str, Any]]] = field(default_factory=list)
    _listings: list[Listing] = field(default_factory=list)

    def add(self, row: Mapping[str, Any], listing: Listing) -> None:
        """Take a row of ``moe-lab inspect`` and the code that it was read from."""
        for rows, known in zip(self.rows, self._listings, strict=True):
            if known is listing:
                rows.append(row)
                return
        self.rows.append([row])
        self._listings.append(listing)

    def write(self, folder: Path) -> Path:
        """Write the pages and ``index.html`` into a folder, and return its path."""
        names = _file_names([rows[0] for rows in self.rows])
        for name, rows, listing in zip(names, self.rows, self._listings, strict=True):
            replace(folder / name, render("kernel.html.j2", **page(rows, listing)))
        index = folder / "index.html"
        kernels = [{"file": name, **_about(rows)} for name, rows in zip(names, self.rows, strict=True)]
        replace(index, render("kernels.html.j2", kernels=kernels))
        return index


def is_ours(folder: Path) -> bool:
    """Return whether a folder has an index and nothing but such pages, so that it may be replaced."""
    try:
        held = {path.name: not path.is_symlink() and SAID in read_text(path) for path in folder.iterdir()}
    except (OSError, ValueError):  # it is not there, or holds what is no text
        return False
    return "index.html" in held and all(held.values())


def page(rows: Sequence[Mapping[str, Any]], listing: Listing) -> dict[str, Any]:
    """Return what the page of a kernel shows.

    Args:
        rows: rows of launches with this code.
        listing: the code.
    """
    code = listing.instructions
    loop = assembly.inner_loop(code)
    source = code_parts.source(code)
    table = pd.DataFrame([rows[0]])
    found = [(rule, one) for rule in RULES for one in rows_of(static.amiss(table, rule))]
    return {
        **_about(rows),
        "facts": list(_facts(rows[0])),
        "findings": [{"rule": rule, "text": findings.evidence(one, rule)} for rule, one in found],
        "units": code_parts.units(code, loop),
        "files": code_parts.files(code, loop, source),
        "parts": code_parts.parts(code, loop, source),
    }


def _about(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = rows[0]
    calls = dict.fromkeys(f"{one.get('backend') or one.get('algorithm')}, {one['format']}" for one in rows)
    return {
        "kernel": row["kernel"],
        "arch": row["arch"],
        "gpu": row["gpu"],
        "stage": row.get("stage") or "",
        "model": row["model"],
        "calls": "; ".join(calls),
        "tokens": ", ".join(f"{m:,}" for m in dict.fromkeys(int(one["M"]) for one in rows)),
        "constants": row.get("constants") or "",
        "registers": row.get("static_registers"),
        "occupancy": row.get("static_occupancy_pct"),
        "spilled": _spilled(row),
        "tensor": row.get("tensor_unit") or "",
    }


def _spilled(row: Mapping[str, Any]) -> int:
    return sum(row.get(column) or 0 for column in ("vgpr_spills", "sgpr_spills", "local_accesses"))


def _facts(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    known = schema.shown()
    for column in FACTS:
        if (value := row.get(column)) is not None:
            text = rounded(value, known[column].digits or 0) if isinstance(value, (int, float)) else str(value)
            yield {"label": known[column].label, "value": text, "unit": known[column].unit}


def _file_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a file name for each page: ``sm_90_w13_fused_moe_gemm_kernel.html``, with a number if another has it."""
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        words = [row["arch"], row.get("stage"), row["kernel"]]
        name = re.sub(r"[^\w.-]+", "-", "_".join(str(word) for word in words if word))
        seen[name] += 1
        names.append(f"{name}{f'_{seen[name]}' if seen[name] > 1 else ''}.html")
    return names
