# SPDX-License-Identifier: Apache-2.0
"""Turns one executed notebook into one HTML page."""

import html
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from moe_lab import __version__
from moe_lab.pages.show import mime, tables
from moe_lab.report import described, places, scripts, sections, thumbnail
from moe_lab.report.files import TEMPLATES, replace
from moe_lab.report.model import Executed, Job, Look, Page
from moe_lab.report.notebooks import heading


def write(done: Executed, job: Job, look: Look, *, start: float) -> Page:
    """Convert an executed notebook, begun at ``start`` (``time.monotonic()``), and write its page.

    A page that would lose a figure, or load anything from the network, is written as a failed page that says so.
    """
    title, question = heading(done.notebook, job.notebook.stem)
    done.notebook.cells = sections.with_something(done.notebook.cells)
    figures = [o["data"][mime.PLOTLY] for o in _outputs(done.notebook) if mime.PLOTLY in o.get("data", {})]
    drawn = len(figures) + sum(_is_foreign_figure(o) for o in _outputs(done.notebook))
    said: dict[str, Any] = next((o["data"][mime.HEADLINE] for o in _outputs(done.notebook, mime.HEADLINE)), {})
    provenance = [run for o in _outputs(done.notebook, mime.PROVENANCE) for run in o["data"][mime.PROVENANCE]]
    told: dict[str, Any] = {"title": title, "question": question, "label": job.label, "failed": done.failed}
    facts = told | {
        "look": look,
        "around": sections.around(look.links, f"{job.file_name}.html"),
        "runs": [run | {"href": sections.address(run, look)} for run in provenance],
        "parameters": {name: places.value(given) for name, given in job.parameters.items()},
        "seconds": time.monotonic() - start,
        "plotly": bool(figures),
    }
    text = _convert(done.notebook, facts)
    problem = _problem(text, drawn)
    if problem:
        done.notebook.cells = []
        text = _convert(done.notebook, facts | {"failed": problem, "plotly": False})
    path = look.out / f"{job.file_name}.html"
    replace(path, _with_scripts(text) if look.single_file else text)
    told["failed"] = problem or done.failed
    return Page(
        **told,
        html=path,
        headline=said.get("headline", ""),
        point=job.point,
        rows=next((one["rows"] for one in said.get("found", [])), []),
        thumbnail=next((svg for svg in map(thumbnail.draw, figures) if svg), ""),
        provenance=provenance,
        seconds=time.monotonic() - start,
        figures=0 if problem else drawn,
    )


def _outputs(notebook: Any, mime: str = "") -> Iterator[Any]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if not mime or mime in output.get("data", {}):
                yield output


def _is_foreign_figure(output: Any) -> bool:
    """Return whether an output is a plotly figure in a form that the page cannot keep: the HTML of another renderer."""
    data = output.get("data", {})
    return mime.PLOTLY not in data and "Plotly.newPlot" in str(data.get("text/html", ""))


def _convert(notebook: Any, facts: dict[str, Any]) -> str:
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    for output in _outputs(notebook, mime.PLOTLY):
        output["data"] = {"text/html": _figure_html(output["data"][mime.PLOTLY])}
    facts = facts | {"version": __version__, "folder": scripts.FOLDER}
    facts |= {"sections": sections.headings(notebook), "table_css": tables.css()}
    # By default nbconvert loads these from the network.
    config = Config({"HTMLExporter": {"require_js_url": "", "mathjax_url": "", "mermaid_js_url": "", "jquery_url": ""}})
    places = {"extra_template_basedirs": [str(TEMPLATES)], "extra_template_paths": [str(TEMPLATES)]}
    exporter = HTMLExporter(config=config, template_name="report", **places)
    body, _ = exporter.from_notebook_node(notebook, resources={"lab": facts})
    # Every table brings its style, for notebooks; the page has it once.
    return str(body).replace(tables.style(), "")


def _with_scripts(text: str) -> str:
    """Put the shared files into the page after conversion, because nbconvert would parse all of them."""
    for name, content in scripts.SCRIPTS.items():
        script = content().replace("</script", "<\\/script")  # which would end the element
        text = _instead(text, f'<script[^>]*"{scripts.FOLDER}/{name}"[^>]*></script>', f"<script>{script}</script>")
    css = f"<style>{scripts.style()}</style>"
    return _instead(text, f'<link[^>]*"{scripts.FOLDER}/style.css"[^>]*>', css)


def _instead(text: str, pattern: str, new: str) -> str:
    return re.sub(pattern, lambda _: new, text, count=1)


def _figure_html(figure: dict[str, Any]) -> str:
    # No `<` at all: with `<!--<script>` in a name, a browser would read the rest of the page as this script.
    drawn = {k: _rounded(figure[k]) for k in ("data", "layout")}
    content = json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
    height = int(figure["layout"].get("height") or 420)
    name = html.escape(described.figure(figure))
    return (
        f'<figure class="plot" aria-label="{name}"><div class="plot-area" style="height:{height}px"></div>'
        f'<script type="application/json" class="plot-data">{content}</script></figure>'
    )


def _rounded(value: Any) -> Any:
    """Return JSON with numbers of at most six digits: nobody sees more of them, and pages are smaller."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _problem(text: str, drawn: int) -> str | None:
    """Return what is wrong with a page: a lost figure, or something that it would load from the network."""
    seen = _Seen()
    seen.feed(text)
    if seen.figures != drawn:
        return (
            f"The notebook drew {drawn} figures but {seen.figures} reached the page; let each figure be the last line "
            "of a cell, or call show() without naming a renderer."
        )
    if seen.loads:
        return f"The page would load {seen.loads[0]} from the network; embed it in the notebook's output instead."
    return None


class _Seen(HTMLParser):
    """Counts figures and collects what a browser would fetch; links that a reader may click do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = 0
        self.loads: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        self.figures += tag == "script" and ("class", "plot-data") in attrs
        for name, value in attrs:
            fetched = name in ("src", "srcset", "poster", "data") or (
                name == "href" and tag in ("link", "image", "use")
            )
            # Also addresses without a scheme: //host/path.
            if fetched and re.match(r"\s*(https?:)?//", value or "", re.I):
                self.loads.append(str(value).strip())
            if name == "style":
                self._collect(value or "")

    def handle_data(self, data: str) -> None:
        if self._style:
            self._collect(data)

    def _collect(self, css: str) -> None:
        self.loads += re.findall(r"(?:@import\s+|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)", css)
