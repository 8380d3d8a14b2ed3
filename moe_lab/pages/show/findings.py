"""Sentences rendered from numbers: no figure in a report is typed by hand.

The first finding of a notebook is its headline; ``show`` stores it beside the HTML so that the index card can quote it.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_lab.pages.show import mime

NBSP = "\u00a0"


@dataclass(frozen=True)
class Finding:
    """One thing that was found; ``str()`` of it is ``about: text``.

    Attributes:
        about: its subject; empty for a headline.
        text: what is said of it, a sentence or the rest of one.
        severity: ``normal``, or ``caution`` for what casts doubt on numbers.
    """

    about: str
    text: str
    severity: str = "normal"

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" if self.about else self.text

    def html(self) -> str:
        """Return the subject in bold and the text after it as a sentence."""
        about, text = html.escape(self.about), html.escape(self.text)
        return f"<strong>{about}.</strong> {text[:1].upper()}{text[1:]}" if about else text


class Findings:
    """Findings to display, the first one as the headline.

    Attributes:
        found: most important first.
    """

    def __init__(self, found: Sequence[Finding | None]):
        self.found = [f for f in found if f]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        first, *rest = self.found or [Finding("", "No finding: the runs hold too little.")]
        items = "".join(f'<li class="{f.severity}">{f.html()}</li>' for f in rest)
        top = html.escape(str(first))
        return {
            "text/html": f'<div class="findings"><p class="headline">{top}</p><ul>{items}</ul></div>',
            "text/plain": "\n".join([str(first), *(f"- {f}" for f in rest)]),
            mime.HEADLINE: {"headline": str(first), "findings": [str(f) for f in rest]},
        }


def show(found: Sequence[Finding | None]) -> Findings:
    """Return the findings as something a notebook displays as the last line of a cell."""
    return Findings(found)


def each(about: str, parts: Iterable[str]) -> Finding | None:
    """Return one finding of the parts that say something; None without any."""
    said = [text for text in parts if text]
    return Finding(about, f"{'; '.join(said)}.") if said else None


def caution(text: str) -> Finding:
    """Return what casts doubt on the numbers of a page."""
    return Finding("Caution", text, severity="caution")


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def number(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, thousands separated, never in exponent form.

    Args:
        value: any finite number.
        digits: significant digits.
    """
    if not value:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def percent(value: float) -> str:
    """Return a percentage in as many digits as it deserves: ``0.4 %``, ``12 %``, ``99.7 %``; never rounded to 100."""
    text = f"{value:.1f}" if value < 9.95 or 99.5 <= value < 99.95 else f"{value:.0f}"
    return f"{'> 99.9' if text == '100' and value < 99.995 else text}{NBSP}%"


def time(ms: float) -> str:
    """Return a time in the unit in which it reads best: ``5.41 ms``, ``38.2 µs``."""
    return f"{number(ms)}{NBSP}ms" if ms >= 1 else f"{number(1000 * ms)}{NBSP}µs"
