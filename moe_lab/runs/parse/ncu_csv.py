# SPDX-License-Identifier: Apache-2.0
"""Nsight Compute: what ``ncu --csv`` prints, raw or details page, to launches with counters."""

from pathlib import Path

from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.ncu import lines, pages, rows
from moe_lab.runs.parse.ncu.slim import write
from moe_lab.spec.launches import Launches

INFO = {"about": "CSV page of Nsight Compute (ncu --csv, raw or details)", "report": "report.csv"}


def sniff(path: Path) -> bool:
    """Return whether this is text with a page of ncu in it."""
    return path.is_file() and path.suffix in (".csv", ".txt", ".log", "") and lines.is_page(path)


def parse(path: Path) -> Launches:
    """Read the kernels of a page: launch geometry, ranges, and the counters of ``metrics.csv`` in base units.

    There are no start times: every kernel ran alone. ``duration_ns`` is that of the measured pass. The details page
    rounds to two decimals and has fewer counters than the raw page.

    Raises:
        UserError: the file holds no kernels, is truncated, or its numbers cannot be read without doubt.
    """
    found = pages.read(Path(path))
    return rows.assemble(found.rows, rows.facts(found.gpu, found.rows, found.notes))


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy: the raw page in base units; as ``Slimmed`` says."""
    found = pages.read(Path(source))
    return write(found.rows, found.gpu, target, keep, found.hosts)
