"""What stands where a table or figure would be, long tables, and where the numbers of a page come from."""

import html
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis.roofs import of_kind, of_run
from moe_lab.pages.show import mime
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.runs import Run


class Note:
    """A sentence that stands where a table or figure would be.

    Attributes:
        sentence: what is missing, and how to get it.
    """

    def __init__(self, sentence: str):
        self.sentence = sentence

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.sentence))
        return {"text/html": f"<p><em>{text}</em></p>", "text/plain": self.sentence}


class Tall(Table):
    """A table of many rows, in a box that scrolls."""

    def html(self) -> str:
        """Return the table in a box as high as a dozen rows."""
        return f'<div style="max-height:30em;overflow-y:auto">{super().html()}</div>'


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
    """Return what a GPU can do at most: the same table on every page.

    Args:
        known: ``analysis.roofs.of_gpu`` or ``with_peaks``; a column gpu where it has rows of several.
    """
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


def provenance(runs: dict[str, Run | None]) -> Table | Note:
    """Return what was measured, on what, with what: one row a fact, one column a run.

    Args:
        runs: what each is for -> run, None if there is none.
    """
    there = {what: run for what, run in runs.items() if run is not None}
    facts = {what: _facts(run) for what, run in there.items()}
    names = list(dict.fromkeys(fact for own in facts.values() for fact in own))
    rows = [{"fact": fact, **{what: own.get(fact) for what, own in facts.items()}} for fact in names]
    frame = pd.DataFrame(rows, columns=["fact", *facts])
    frame = frame[frame[list(facts)].notna().any(axis=1)] if facts else frame
    cards = [
        {
            "phase": what,
            "run": run.manifest.get("name"),
            "gpu": (run.manifest.get("gpu") or {}).get("name"),
            "date": run.manifest.get("date"),
        }
        for what, run in there.items()
    ]
    columns = [*heads("fact"), *(Column(what, what, wrap=True) for what in facts)]
    return or_note(frame, Table(frame, columns, extra={mime.PROVENANCE: cards}), "No run was read.")


def _roof(kind: str, value: float) -> str:
    what, unit = ROOFS[kind]
    return f"{what} {value / 1e12:.2f} {unit.partition(',')[0]}"


def _facts(run: Run) -> dict[str, str | None]:
    manifest = run.manifest
    gpu, versions, tool = (manifest.get(key) or {} for key in ("gpu", "versions", "tool"))
    rows = manifest.get("rows")
    stack: Sequence[str] = [f"{n} {versions[n]}" for n in ("cuda", "torch", "triton", "moe_lab") if versions.get(n)]
    command = manifest.get("command")
    own = {kind: found for kind in ROOFS if (found := of_kind(of_run(run), kind))}
    return {
        "Run": manifest.get("name"),
        "GPU": gpu.get("name"),
        "Roofs in the run": ", ".join(_roof(kind, one["value"]) for kind, one in own.items()) or None,
        "Driver": versions.get("driver"),
        "Software": ", ".join(stack) or None,
        "Tool": " ".join(str(p) for p in (tool.get("name"), tool.get("version")) if p) or None,
        "Measured": str(manifest.get("date") or "")[:16].replace("T", " ") or None,
        "Rows": f"{rows['count']:,}, {rows['failed']:,} of them failed" if rows else None,
        "Came to its end": {True: "yes", False: "no"}.get(rows["complete"]) if rows else None,
        "Command": " ".join(command) if isinstance(command, list) else command,
        "Left out of the run": " ".join(manifest.get("redacted") or []) or None,
    }
