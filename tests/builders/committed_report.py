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
    pages = []
    for notebook in sorted((REPO / "notebooks").glob("*.ipynb")):
        if names and not notebook.name.startswith(tuple(names)):
            continue
        html = written / f"{notebook.stem}.html"
        text = html.read_text()
        failed = "it stopped" if '<div class="failed"' in text else None
        pages.append(report.Page(notebook.stem, "", html, failed, figures=text.count('class="plot-data"')))
    return report.Report(written / "index.html", pages)
