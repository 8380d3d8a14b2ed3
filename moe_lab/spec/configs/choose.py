"""From the rows of a tuning to its tiles: the same choice for the process that tunes, the run, and the notebook."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe_lab.spec import formats
from moe_lab.spec.configs import Point, Tuned, parse
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

Row = Mapping[str, Any]


def records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a run, a DataFrame, as mappings; None where a quantity is not known."""
    plain = frame.astype(object)
    return list(plain.where(plain.notna(), None).to_dict("records"))


def finals(rows: Iterable[Row], M: int | None = None, phase: str = "final") -> list[Row]:
    """Return the timed and right rows of whole calls, the quickest, relative to its reference, first.

    The phase is ``final``, or ``between`` for Ms between the tuned ones.
    """
    own = [r for r in rows if r["phase"] == phase and M in (None, r["M"]) and _timed(r) and r["correct"] is True]
    return sorted(own, key=lambda r: (r["M"], r["median_us"] / (r["reference_us"] or 1.0)))


def _timed(row: Row) -> bool:
    us = row["median_us"]
    return isinstance(us, int | float) and us == us


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the best tiles of every M that has a finalist, by M."""
    out = []
    for M in sorted({int(row["M"]) for row in finals(rows)}):
        own = finals(rows, M)
        best, single = own[0], [row for row in own if row["w13"] == row["w2"]]
        one = (parse(single[0]["w13"]), float(single[0]["median_us"])) if single else (None, None)
        out.append(Point(M, parse(best["w13"]), parse(best["w2"]), float(best["median_us"]), *one))
    return out


def tuned(rows: Sequence[Row], manifest: Mapping[str, Any]) -> Tuned | None:
    """Return the file of tiles that a tuning amounts to; None if no M has a finalist.

    Args:
        rows: of the run.
        manifest: its ``run.json``: name, gpu, date, versions.

    Raises:
        UserError: the rows lack a column, or hold what cannot be.
    """
    try:
        return _tuned(rows, manifest)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {one_line(str(error), 60)}"
        raise UserError(f"The rows of '{manifest['name']}' cannot give tiles ({said}); tune again.") from None


def _tuned(rows: Sequence[Row], manifest: Mapping[str, Any]) -> Tuned | None:
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
