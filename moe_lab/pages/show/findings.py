# SPDX-License-Identifier: Apache-2.0
"""Sentences rendered from numbers, together with the rows behind them: no figure in a report is typed by hand.

The first finding of a notebook is its headline; ``show`` stores it beside the HTML so that the index card can quote it,
and with it every finding as data. The headline and the two findings with the most time at stake stand open, each in one
sentence of at most ``MOST_WORDS`` words; a click unfolds the others. ``changes`` says what to change next.
"""

import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from moe_lab.analysis.bench_rows import BenchRun
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import mime, tables

NBSP = "\u00a0"
MOST_WORDS = 25  # of a sentence that stands open
OPEN = 3  # sentences
MOST_ROWS = 20  # more rows are a table of the page and not the basis of one sentence
Severity = Literal["normal", "problem", "caution"]


@dataclass(frozen=True)
class Finding:
    """One finding; its ``str()`` is ``about: text``.

    Attributes:
        about: its subject; empty for a headline.
        text: what is said about it, a sentence or the rest of one.
        rows: the rows of a table that the numbers come from; empty if there is no such table.
        severity: ``problem`` for what costs time, fails or breaks a bound, ``caution`` for what casts doubt on numbers.
        stake_us: time that is at stake, in microseconds; 0 if none is known.
        short: the finding in at most ``MOST_WORDS`` words, where the whole is longer.
        change: what to change because of it, without a full stop; empty if nothing follows.
    """

    about: str
    text: str
    # Not compared: == of two tables is a table.
    rows: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)
    severity: Severity = "normal"
    stake_us: float = field(default=0.0, compare=False)
    short: str = field(default="", compare=False)
    change: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" if self.about else self.text

    def brief(self) -> str:
        """Return the short sentence; the whole finding if it has none."""
        return self.short or str(self)

    def is_brief(self) -> bool:
        """Return whether the sentence has at most ``MOST_WORDS`` words; a number and its unit are one."""
        return len(self.brief().split(" ")) <= MOST_WORDS

    def html(self) -> str:
        """Return the subject in bold, then the text as a sentence; a click unfolds the rows."""
        about, text = html.escape(self.about), html.escape(self.text)
        said = f"<strong>{about}.</strong> {text[:1].upper()}{text[1:]}" if about else text
        return said + self.details()

    def details(self) -> str:
        """Return the rows as a table to unfold; empty if there are none."""
        if self.rows.empty:
            return ""
        count = f"{len(self.rows)} {'row' if len(self.rows) == 1 else 'rows'}"
        table = tables.Table(self.rows, tables.guessed(self.rows)).bare()
        return f'<details class="rows"><summary>{count}</summary>{table}</details>'

    def data(self) -> dict[str, Any]:
        """Return the finding as JSON values; unknown numbers are null."""
        rows = json.loads(self.rows.to_json(orient="records"))  # pandas knows how to write NA and its own numbers
        return {"about": self.about, "text": self.text, "severity": self.severity, "rows": rows}


class Findings:
    """Findings to display, most important first: the first one is the headline."""

    def __init__(self, found: Sequence[Finding | None]):
        self.found = [f for f in found if f] or [Finding("", "No finding: the runs hold too little.")]

    def open(self) -> list[Finding]:
        """Return the headline and the findings with the most time at stake, those that one sentence can tell."""
        first, *rest = self.found
        return [first, *sorted(filter(Finding.is_brief, rest), key=lambda f: -f.stake_us)[: OPEN - 1]]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        first, *rest = self.found
        items = "".join(f'<li class="{f.severity}">{f.html()}</li>' for f in self.found)
        lead = "".join(f'<li class="{f.severity}">{html.escape(f.brief())}</li>' for f in self.open())
        count = f"{len(self.found)} {'finding' if len(self.found) == 1 else 'findings'}, with the rows behind them"
        every = f'<details class="every"><summary>{count}</summary><ul>{items}</ul></details>'
        stored = {"headline": first.brief(), "findings": [str(f) for f in rest]}
        return {
            "text/html": f'{tables.style()}<div class="findings"><ul class="open">{lead}</ul>{every}</div>',
            "text/plain": "\n".join([str(first), *(f"- {f}" for f in rest)]),
            mime.HEADLINE: {**stored, "found": [f.data() for f in self.found]},
        }


class Changes:
    """What to change next, the most time at stake first."""

    def __init__(self, found: Sequence[Finding | None]):
        self.found = sorted((f for f in found if f and f.change), key=lambda f: -f.stake_us)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        said = [(f.change, time(f.stake_us / 1e3) if f.stake_us else "") for f in self.found]
        if not said:
            none = "Nothing: no finding of this page names a cost that a change would save."
            return {"text/html": f"<p>{none}</p>", "text/plain": none}
        items = [_code(what) + (f" <small>{stake} at stake</small>" if stake else "") for what, stake in said]
        lines = [f"{n}. {what}{f' ({stake} at stake)' if stake else ''}" for n, (what, stake) in enumerate(said, 1)]
        listed = "".join(f"<li>{item}</li>" for item in items)
        return {"text/html": f'<ol class="changes">{listed}</ol>', "text/plain": "\n".join(lines)}


def _code(text: str) -> str:
    """Return a text as HTML; backquotes mark code, as in Markdown."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def show(found: Sequence[Finding | None]) -> Findings:
    """Return the findings as an object that a notebook displays if it is the last line of a cell."""
    return Findings(found)


def changes(found: Sequence[Finding | None]) -> Changes:
    """Return what the findings say to change next, as an object to display: the last cell of a notebook."""
    return Changes(found)


def rows(found: Iterable[Any], columns: str) -> pd.DataFrame:
    """Return the rows of a finding, at most ``MOST_ROWS``, with those of the ``columns`` that there are.

    ``found`` is a table, or rows of one from ``rows_of``; ``columns`` are separated by spaces.
    """
    table = found if isinstance(found, pd.DataFrame) else pd.DataFrame(list(found))
    return table[[c for c in columns.split() if c in table]].head(MOST_ROWS)


def each(
    about: str, parts: Iterable[str], rows: pd.DataFrame | None = None, severity: Severity = "normal"
) -> Finding | None:
    """Return one finding of all parts that are not empty; None if there are none."""
    said = [text for text in parts if text]
    return Finding(about, f"{'; '.join(said)}.", pd.DataFrame() if rows is None else rows, severity) if said else None


def caution(text: str) -> Finding:
    """Return a finding that casts doubt on the numbers of a page."""
    return Finding("Caution", text, severity="caution")


def failures(bench: BenchRun, failed: pd.DataFrame, where: Callable[[Any], str], columns: str) -> list[Finding]:
    """Say which backends or algorithms failed and ``where``, and whether the benchmark finished.

    The first of ``columns`` names what failed.
    """
    out = []
    for name, part in failed.groupby(columns.split()[0], sort=True):
        one: Any = next(rows_of(part))
        count = f"{len(part)} {'row' if len(part) == 1 else 'rows'}"
        said = f"{name} in {count}, for example at {where(one)}: {str(one.error).rstrip('.')}."
        out.append(Finding("Failed", said, rows(part, columns), "problem"))
    # None = the run does not say whether it is complete.
    if bench.run and bench.run.manifest["rows"].get("complete") is False:
        out.append(caution("the benchmark was stopped before its end, so some sizes are missing."))
    return out


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def number(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, thousands separated, never in exponent form."""
    if not value:
        return "0"
    # The exponent of the rounded number: 0.9996 is shown as 1.00.
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def percent(value: float) -> str:
    """Return a percentage with suitable digits: ``0.4 %``, ``12 %``, ``99.7 %``; it is never rounded up to 100."""
    # From 9.95 on one decimal would read as 10.0, from 99.95 on as 100.0.
    text = f"{value:.1f}" if value < 9.95 or 99.5 <= value < 99.95 else f"{value:.0f}"
    return f"{'> 99.9' if text == '100' and value < 99.995 else text}{NBSP}%"


def time(ms: float) -> str:
    """Return a time in the unit that reads best: ``5.41 ms``, ``38.2 µs``."""
    return f"{number(ms)}{NBSP}ms" if ms >= 1 else f"{number(1000 * ms)}{NBSP}µs"
