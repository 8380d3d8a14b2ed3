# SPDX-License-Identifier: Apache-2.0
"""Compiled code as a run: start the process that compiles, read its listings, keep one row per launch."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moe_lab import runs
from moe_lab.runs import assembly, bench_runs, rows
from moe_lab.spec import architectures
from moe_lab.spec.errors import REFUSED, UserError, of_child
from moe_lab.spec.guard import places, scratch
from moe_lab.spec.guard.entry import plain_name, read_text
from moe_lab.spec.guard.places import full_name

BENCH = "inspect"
FOLDER = "static"
Seen = Callable[[Mapping[str, Any], assembly.Listing], None]


def inspect(
    arguments: Sequence[str],
    name: str,
    *,
    root: Path | None = None,
    overwrite: bool = False,
    seen: Seen | None = None,
    command: str = BENCH,
) -> tuple[runs.Run, int]:
    """Compile kernels in a separate process and keep what their code says.

    Args:
        arguments: options of ``command``.
        name: ``<run>``, in the folder ``static``, or ``<folder>/<run>``.
        root: profiles folder.
        overwrite: replace an existing run of that name.
        seen: called with each row that has code, and its listing; rows of the same code get the same object.
        command: ``inspect``, or ``tune`` with ``--static`` among its arguments.

    Returns:
        The run and the exit code of the process.

    Raises:
        UserError: Triton is missing, the name is bad or taken, or nothing was compiled.
    """
    if find_spec("triton") is None:
        raise UserError("Compiling needs torch and Triton, but no GPU: pip install 'moe-lab[gpu]'.")
    place, full = root or places.profiles_root(), full_name(name, FOLDER)
    with places.claim(place, full, overwrite=overwrite) as held, scratch.private() as private:
        out = private.folder / "rows.json"
        code = bench_runs.wait([sys.executable, "-m", "moe_lab.gpu", command, *arguments, "--out", str(out)])
        if not rows.is_result(out) or code == REFUSED:
            raise of_child(code, f"The compiling process {bench_runs.stopped(code)}; see its output above.")
        read = private.folder / "read.json"
        _write(rows.read_result(out), out.with_name(f"{out.name}.code"), read, seen)
        given = {"command": ["moe-lab", command, *arguments, "--name", name.split("/")[-1]]}
        return bench_runs.import_bench([read], full, root=place, manifest=given, overwrite=overwrite, held=held), code


def _write(result: rows.Result, code: Path, target: Path, seen: Seen | None) -> None:
    """Write a result again, with the columns read from the listings in the folder ``code``."""

    @cache  # launches that differ only in M share one listing
    def read(listing: str) -> assembly.Listing:
        return assembly.read(read_text(code / plain_name(listing, "a listing")))

    found = [_with_columns(row, read) for row in result.rows]
    for row, columns in zip(result.rows, found, strict=True):
        if seen and "static_instructions" in columns:
            seen(columns, read(row["listing"]))
    lines = [result.header, *found, {"complete": bool(result.complete)}]
    target.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _with_columns(row: Mapping[str, Any], read: Any) -> dict[str, Any]:
    """Return a row with the contents of its listing in place of the listing's name."""
    known = {key: value for key, value in row.items() if key not in ("listing", "tensor_warps")}
    if "listing" not in row:
        return known
    try:
        found = assembly.columns(read(row["listing"]), row.get("tensor_warps", row["num_warps"]))
    except UserError as error:
        return known | {"error": str(error)}
    except ValueError as error:
        raise UserError(f"A listing cannot be read ({error}); compile again.") from None
    known |= found | {"static_smem_bytes": row["static_smem_bytes"] + found["smem_in_code_bytes"]}
    del known["smem_in_code_bytes"]
    card = next(card for card in architectures.cards() if card.name == row["gpu"])
    return known | {"block_threads": row["num_warps"] * card.warp_threads} | _fits(known, card)


def _fits(row: Mapping[str, Any], card: architectures.Card) -> dict[str, Any]:
    """Return the columns on occupancy; if not even one block fits, that is the error of the row, as of the launch."""
    smem, most = row["static_smem_bytes"], card.smem_block_bytes
    if smem > most:
        return {"error": f"It needs {smem} bytes of shared memory per thread block; this GPU allows {most}."}
    scalar = row.get("static_sgprs") or 0
    found = architectures.occupancy(card, row["num_warps"], row["static_registers"], smem, scalar)
    return {
        "static_occupancy_pct": found.percent,
        "occupancy_limit": found.limited_by,
        "blocks_by": list(found.by.items()),
    }
