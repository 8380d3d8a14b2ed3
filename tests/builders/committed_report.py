"""The report of the committed runs: the one that MOE_LAB_REPORTS names, just written, or one made now."""

import os
from collections.abc import Sequence
from pathlib import Path

from checkout import REPO

from moe_lab import report


def committed(out: Path, names: Sequence[str] = ()) -> report.Report:
    """Return a page of each committed notebook, or of those whose names begin so, and the index of all or of these."""
    folder = os.environ.get("MOE_LAB_REPORTS")
    if not folder:
        return report.build(list(names) or None, out=out, parameters={}, grid=None, show_code=False)
    written = (REPO / folder).resolve()
    index, pages = written / "index.html", []
    failed = "The index names it." if '<div class="failed"' in index.read_text() else None  # of one page at least
    for notebook in sorted((REPO / "notebooks").glob("*.ipynb")):
        if names and not notebook.name.startswith(tuple(names)):
            continue
        html = written / f"{notebook.stem}.html"
        figures = html.read_text().count('class="plot-data"')
        pages.append(report.Page(notebook.stem, "", html, failed, figures=figures))
    return report.Report(index, pages)
