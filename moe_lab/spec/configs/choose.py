# SPDX-License-Identifier: Apache-2.0
"""The choice of tiles from the rows of a tuning run, shared by the process that tunes, the run and the notebook."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe_lab.spec import formats
from moe_lab.spec.configs import Point, Tuned, parse
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

Row = Mapping[str, Any]


def records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a run, a DataFrame, as mappings; None where a quantity is not known."""
    plain = frame.astype(object)  # other dtypes would turn None back into NaN
    return list(plain.where(plain.notna(), None).to_dict("records"))


def finals(rows: Iterable[Row], M: int | None = None, phase: str = "final") -> list[Row]:
    """Return the rows of whole calls that were timed and are correct, by M and then the fastest first.

    The phase is ``final``, or ``between`` for Ms between the tuned ones.
    """
    own = [r for r in rows if r["phase"] == phase and M in (None, r["M"]) and _timed(r) and r["correct"] is True]
    # Relative to the reference timed beside each row: the clock of the GPU drifts between one row and another.
    return sorted(own, key=lambda r: (r["M"], r["median_us"] / (r["reference_us"] or 1.0)))


def _timed(row: Row) -> bool:
    us = row["median_us"]
    return isinstance(us, int | float) and us == us  # NaN is not equal to itself


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the best tiles of every M that has a finalist, by M."""
    out = []
    for M in sorted({int(row["M"]) for row in finals(rows)}):
        own = finals(rows, M)
        # vLLM takes one tile for both GEMMs, so the best such pair is kept beside the best of all.
        best, single = own[0], [row for row in own if row["w13"] == row["w2"]]
        one = (parse(single[0]["w13"]), float(single[0]["median_us"])) if single else (None, None)
        out.append(Point(M, parse(best["w13"]), parse(best["w2"]), float(best["median_us"]), *one))
    return out


def tuned(rows: Sequence[Row], manifest: Mapping[str, Any]) -> Tuned | None:
    """Return the tuned tiles that the rows of a run yield; None if no M has a finalist.

    Args:
        rows: of the run.
        manifest: its ``run.json``: name, gpu, date, versions.

    Raises:
        UserError: the rows lack a column, or have invalid values.
    """
    try:
        found = points(rows)
        if not found:
            return None
        first = next(row for row in rows if row["phase"] == "final")
        return Tuned(
            str(first["backend"]),
            str((manifest.get("gpu") or {}).get("name") or "unknown"),
            E=int(first["E"]),
            N=int(first["N"]),
            K=int(first["K"]),
            topk=int(first["topk"]),
            format=str(formats.stated(first)),
            points=tuple(found),
            origin=str(manifest["name"]),
            date=manifest.get("date"),
            versions={k: v for k, v in (manifest.get("versions") or {}).items() if v is not None},
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {one_line(str(error), 60)}"
        raise UserError(f"The rows of '{manifest['name']}' yield no tiles ({said}); tune again.") from None
