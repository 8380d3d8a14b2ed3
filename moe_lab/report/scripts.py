# SPDX-License-Identifier: Apache-2.0
"""The scripts that draw figures and sort tables: files beside the pages, which share them, or part of each page.

Figures are drawn by plotly.js. Tables are sorted, searched, filtered and copied by DataTables, as the package itables
brings it for use without a network; great_tables has none of that.
"""

import base64
from importlib import resources
from pathlib import Path

from moe_lab.report.files import TEMPLATES, replace

FOLDER = "report_files"


def write(out: Path) -> None:
    """Write the scripts and the style of tables to ``FOLDER`` below the folder of the pages."""
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for name, made in (*SCRIPTS.items(), ("style.css", style)):
        replace(folder / name, made())


def plotly() -> str:
    """Return plotly.js."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def tables() -> str:
    """Return a script that promises DataTables as ``window.moeLabTables``.

    Its module is in the script as a data address: a browser does not load modules from a folder.
    """
    module = base64.b64encode(_bundled("js").encode()).decode()
    return f"window.moeLabTables = import('data:text/javascript;base64,{module}');\n"


def page() -> str:
    """Return what a page does: draws its figures, makes its tables and its filter."""
    return "".join((TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in ("page", "tables", "filter"))


def style() -> str:
    """Return the style of DataTables, and the colours of code."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("friendly", "github-dark"))
    return f"{_bundled('css')}\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


SCRIPTS = {"plotly.js": plotly, "tables.js": tables, "page.js": page}


def _bundled(ending: str) -> str:
    return (resources.files("itables") / "html" / f"dt_bundle.{ending}").read_text(encoding="utf-8")
