# SPDX-License-Identifier: Apache-2.0
"""What compiled code says, as sentences rendered from the rows of ``moe-lab inspect``."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import static
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.static import RULES, Rule
from moe_lab.analysis.static_check import Check, coverage
from moe_lab.analysis.static_tables import AMD
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, listed

SHOWN = " ".join(AMD)
WHERE = "arch kernel model format M backend algorithm stage"


def all_of(rows: pd.DataFrame) -> list[Finding]:
    """Say how many kernels compiled for what, and what is wrong in which; the first sentence is the headline."""
    found = [_amiss(rows, rule) for rule in RULES]
    return [_headline(rows), *(finding for finding in found if finding)]


def _headline(rows: pd.DataFrame) -> Finding:
    compiled = rows[rows["error"].isna()]
    kernels, refused = compiled["kernel"].nunique(), len(rows) - len(compiled)
    said = (
        f"{kernels} {'kernel' if kernels == 1 else 'kernels'} in {len(rows)} launches compiled for "
        f"{listed(list(dict.fromkeys(rows['arch'])))}{f'; {refused} of these launches cannot be' if refused else ''}."
    )
    shown = static.kernels(rows).rename(columns={"M": "sizes"})  # a text, several of them
    return Finding("", said, findings.rows(shown, "arch kernel sizes static_registers static_smem_bytes"))


def _amiss(rows: pd.DataFrame, rule: Rule) -> Finding | None:
    """Say in which kernels on which architectures a rule fires; None if it fires nowhere."""
    found = static.amiss(rows, rule)
    if found.empty:
        return None
    parts = []
    for kernel, part in found.groupby(found["kernel"].fillna("the call"), sort=False):
        where = listed(list(dict.fromkeys(part["arch"])))
        parts.append(f"{kernel} on {where} ({_example(next(rows_of(part)), rule)})")
    shown = findings.rows(found, f"{WHERE} {rule.shown} {rule.lines}")
    kernels, where = (listed(list(dict.fromkeys(found[of].dropna()))) for of in ("kernel", "arch"))
    return Finding(
        rule.about,
        f"{'; '.join(parts)}.",
        shown,
        "problem" if rule.problem else "normal",
        short=f"{rule.about}: {kernels or 'calls'} on {where}.",
        change=rule.change,
    )


def _example(row: Any, rule: Rule) -> str:
    """Return one launch with the columns that show it: ``two_kernel, bf16, M = 1, gfx942: sgpr_spills 120``."""
    of = row.backend if pd.notna(row.backend) else row.algorithm
    return f"{of}, {row.format}, M = {row.M:,}, {row.arch}: {evidence(row, rule)}"


def evidence(row: Any, rule: Rule) -> str:
    """Return the columns of a row that show that a rule fires, and the lines of the source that it concerns."""
    known = ((name, getattr(row, name, None)) for name in rule.shown.split())
    said = ", ".join(f"{name} {_text(value)}" for name, value in known if _is_known(value))
    lines = getattr(row, rule.lines, None) if rule.lines else None
    at = f"; from {listed([str(line) for line, _ in lines])}" if isinstance(lines, list) and lines else ""
    return said.removeprefix("error ").rstrip(".") + at


def _is_known(value: Any) -> bool:
    return bool(value) if isinstance(value, list) else pd.notna(value) and value != 0


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(f"{number:g} x {name}" for name, number in value)
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def checked(checks: Sequence[Check]) -> Finding | None:
    """Say in how many launches compiled code is what Nsight Compute found; None if no launch is in both."""
    table = coverage(checks)
    compiled, exact = int(table["compiled"].sum()), int(table["agree"].sum())
    if not compiled:
        return None
    said = f"{exact} of {compiled} launches have exactly ncu's registers, shared memory and occupancy"
    left = int(table["launches"].sum()) - compiled
    rest = f"; {left} more launches of these captures were not compiled by the same Triton" if left else ""
    severity: findings.Severity = "normal" if exact == compiled else "problem"
    return Finding("Checked on GPUs", f"{said}{rest}.", table, severity, short=f"Checked on GPUs: {said}.")


def align_on_amd(table: pd.DataFrame) -> Finding | None:
    """Say how many registers the align kernels need on AMD beside the published ones (``static_tables.amd``)."""
    theirs, ours = table[table["of"] == "published"], table[table["of"] != "published"]
    if theirs.empty or ours.empty:
        return None
    most, other = (part.sort_values("static_vgprs").iloc[-1] for part in (ours, theirs))
    said = (
        f"{most['kernel']} of {most['of']} on {most['arch']} needs the most VGPRs of ours, {most['static_vgprs']}, and "
        f"{most['static_sgprs']} SGPRs; published are {other['static_vgprs']} and {other['static_sgprs']}"
    )
    return Finding("Align on AMD", f"{said} for {other['kernel']}.", findings.rows(table, "of kernel arch " + SHOWN))


def of_page(rows: pd.DataFrame, checks: Sequence[Check], aligned: pd.DataFrame) -> list[Finding | None]:
    """Return ``all_of`` with what was checked on a GPU, and the align kernels on AMD, after the headline."""
    headline, *amiss = all_of(rows)
    return [headline, checked(checks), *amiss, align_on_amd(aligned)]
