# SPDX-License-Identifier: Apache-2.0
"""What the matrix of backends says, as sentences rendered from its tables."""

import pandas as pd

from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, listed


def all_of(cells: pd.DataFrame, elsewhere: pd.DataFrame) -> list[Finding | None]:
    """Say how much of the matrix was tried and what fails; the first sentence is the headline."""
    ran = cells[cells["tried_on"].notna()]
    said = (
        f"{cells['backend'].nunique()} backends state {len(cells)} cells of backend and format; stored runs tried "
        f"{len(ran)} of them on a GPU."
    )
    return [
        Finding("", said, findings.rows(ran, "backend format tried_on tried_M releases error_worst")),
        inputs(cells),
        untried(cells),
        not_here(cells),
        failed(cells),
        missing(elsewhere),
    ]


def inputs(cells: pd.DataFrame) -> Finding:
    """Say which backends take the batched layout, and which add biases."""
    batched, biased = cells["inputs"].str.contains("batched"), cells["adds_biases"] == "yes"
    one, other = (listed(list(dict.fromkeys(cells.loc[those, "backend"]))) for those in (batched, biased))
    said = f"Rows by expert with counts (batched) are the layout of {one}; biases are added by {other}."
    rows = findings.rows(cells[batched | biased], "backend format inputs adds_biases")
    return Finding("Layouts and biases", said, rows)


def untried(cells: pd.DataFrame) -> Finding | None:
    """Say which formats no stored run has tried with any backend."""
    tried = set(cells.loc[cells["tried_on"].notna(), "format"])
    names = [name for name in dict.fromkeys(cells["format"]) if name not in tried]
    if not names:
        return None
    rows = findings.rows(cells[cells["format"].isin(names)], "format backend here")
    return Finding("Not tried on a GPU", f"{listed(names)}: no stored run has a row of them.", rows, "caution")


def not_here(cells: pd.DataFrame) -> Finding | None:
    """Say how many cells do not work on this machine, and the most frequent reason."""
    away = cells[~cells["here"].str.startswith("works")]
    if away.empty:
        return None
    why = away["here"].value_counts()
    said = f"{len(away)} of {len(cells)} cells; {why.iloc[0]} of them: {str(why.index[0]).rstrip('.')}."
    return Finding("Not on this machine", said, findings.rows(away, "backend format here"))


def failed(cells: pd.DataFrame) -> Finding | None:
    """Say which cells failed in stored runs, each with its first reason."""
    wrong = cells[cells["rows_failed"].fillna(0).astype(int) > 0]
    if wrong.empty:
        return None
    parts = (f"{row.backend} in {row.format} ({str(row.why_failed).rstrip('.')})" for row in rows_of(wrong))
    rows = findings.rows(wrong, "backend format rows_failed why_failed")
    return findings.each("Some calls failed", parts, rows, "problem")


def missing(elsewhere: pd.DataFrame) -> Finding | None:
    """Say how many kernels that engines list have an adapter here, and how many of these ran."""
    without, ran = elsewhere[elsewhere["backend"] == ""], elsewhere["tried_on"].notna().sum()
    said = (
        f"Of {len(elsewhere)} kernels that engines list, {len(elsewhere) - len(without)} have an adapter here, and "
        f"stored runs tried {ran}."
    )
    return Finding("Kernels of engines", said, findings.rows(without, "engine kernel why_not needed"))
