# SPDX-License-Identifier: Apache-2.0
"""Run notebooks and publish them: one HTML page per notebook or grid point, and an index of all."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moe_lab.report import grid as grids
from moe_lab.report import index, page, points, scripts
from moe_lab.report.execute import Kernels, at_once, execute
from moe_lab.report.model import Job, Look, Page, Report
from moe_lab.report.notebooks import find, jobs, link
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

__all__ = ["Page", "Report", "build"]


def build(
    notebooks: Sequence[str] | None,
    *,
    out: Path,
    parameters: Mapping[str, Any],
    grid: Path | None = None,
    show_code: bool = False,
    single_file: bool = False,
    at_a_time: int = 0,
) -> Report:
    """Execute notebooks and write their pages and ``index.html``.

    A notebook that fails also becomes a page, with its error; the others still run.

    Args:
        notebooks: paths or names (``01``, ``01_layer_breakdown``); None for every notebook.
        out: folder to write to; created if missing.
        parameters: parameter name -> JSON scalar or list, passed to every chosen notebook that has it.
        grid: YAML file with parameter points: names to lists of values, or a list of points.
        show_code: show code cells; otherwise a button on the page shows them.
        single_file: put the scripts of figures and tables into each page, so that it can be sent alone; otherwise they
            lie beside the pages in ``scripts.FOLDER``.
        at_a_time: notebooks that run at the same time. 0 = as many as cores, up to 4, if all of ours run as they
            are, since they only read runs then; else one, since a notebook may measure.

    Raises:
        UserError: an argument does not fit, or cannot be read or written; no notebook has run then.
    """
    todo = jobs(find(notebooks), parameters, grids.read(grid) if grid else [{}])
    _writable(out)  # now, not after minutes of notebooks
    look = Look(out, show_code, single_file, [link(job) for job in todo])
    only_read = notebooks is None and not parameters and not grid
    number = at_a_time or (min(os.cpu_count() or 1, 4) if only_read else 1)
    named = [(job, f"[{which}/{len(todo)}] {job.file_name}") for which, job in enumerate(todo, start=1)]
    pages = at_once(number, [partial(_page, job, progress, look) for job, progress in named])
    if not single_file:
        scripts.write(out)
    if grid:
        points.write(pages, out)
    return Report(index.write(pages, out, points.table(pages) if grid else None), pages)


def _page(job: Job, progress: str, look: Look, kernels: Kernels) -> Page:
    start = time.monotonic()
    return page.write(execute(job, progress, kernels), job, look, start=start)


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".part-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The report folder '{one_line(out.name or str(out))}' cannot be written ({error.strerror}); choose "
            "another with --out."
        ) from error
