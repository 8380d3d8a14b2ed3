# SPDX-License-Identifier: Apache-2.0
"""Notes in place of a table or figure, and the table of roofs."""

import html
import re
from typing import Any

import pandas as pd

from moe_lab.pages.show import mime
from moe_lab.pages.show.tables import Table, heads


class Note:
    """A sentence in place of a table or figure: what is missing, and how to get it."""

    def __init__(self, sentence: str):
        self.sentence = sentence

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # Backquotes mark code, as in Markdown.
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.sentence))
        return {"text/html": f"<p><em>{text}</em></p>", "text/plain": self.sentence}


class Nothing(Note):
    """A sentence in place of a table or figure of a run that was not given; a page leaves out a section of such."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(), mime.NOTHING: True}


def or_note(frame: pd.DataFrame, table: Table, sentence: str) -> Table | Note:
    """Return the table, or the sentence if it would have no rows."""
    return table if len(frame) else Note(sentence)


ROOFS = {
    "dram": ("DRAM", "TB/s"),
    "l2": ("L2", "TB/s"),
    "tensor": ("tensor", "TFLOP/s, dense bf16"),
    "tensor fp8": ("tensor", "TFLOP/s, dense fp8"),
}


def roofs(known: pd.DataFrame) -> Table | Note:
    """Return what a GPU can do at most, the same on every page (``analysis.roofs``; with a column gpu for several)."""
    shown = known.assign(
        what=[
            ROOFS[k][0] + ("" if m else ", theoretical peak")
            for k, m in zip(known["kind"], known["measured"], strict=True)
        ],
        unit=[ROOFS[k][1] for k in known["kind"]],
        **{column: known[column].astype("Float64") / 1e12 for column in ("value", "low", "high")},
    )
    spread = "over repetitions and benchmarks"
    columns = [
        *(heads("gpu") if "gpu" in known else []),
        *heads("what", label="roof"),
        *heads("value unit"),
        *heads("low high", group=spread),
        *heads("runs how"),
        *heads("run", label="value of"),
    ]
    return or_note(shown, Table(shown, columns), "No roof of this GPU was measured, so there is no bound.")
