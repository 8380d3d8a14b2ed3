"""Starts the measuring process again when it dies: the tile that it was at is left out, the others go on."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_lab.gpu.bench.tune.session import State
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.children import watch

RESTARTS = 40


def note_path(state: Path) -> Path:
    """Return where the measuring process notes what it is about to run."""
    return state.with_name(f"{state.name}.now")


def supervise(
    argv: Sequence[str], out: Path, patience_s: float, until: float, now: Callable[[], float] = time.time
) -> None:
    """Run the measuring process until it comes to its end.

    Args:
        argv: its command, to which ``--state`` is added.
        out: file that it writes.
        patience_s: how long its note may stay the same.
        until: when it is not started again, in seconds.
        now: seconds.

    Raises:
        UserError: it explained a mistake, died before it noted anything, or twice at the same place.
    """
    path, state = out.with_name(f".{out.name}.state"), State()
    note = note_path(path)
    try:
        for _ in range(RESTARTS):
            state.write(path)
            note.unlink(missing_ok=True)
            how = watch([*argv, "--state", str(path)], note, patience_s, until_noted=True)
            if how is None:
                return
            if not note.exists():
                raise UserError(f"The measuring process {how} before its first tile; see its output above.")
            keys = json.loads(note.read_text())
            print(f"\nThe measuring process {how} at {keys[:3]}; it goes on without that.", file=sys.stderr)  # noqa: T201
            if not keys or keys[0] in (state.alone if len(keys) > 1 else [key for key, _ in state.dead]):
                raise UserError(f"The measuring process {how} twice at the same place; see its output above.")
            if len(keys) == 1:
                state.dead.append((keys[0], f"the process {how}"))
            else:
                state.alone += keys
            if now() > until:
                return
    finally:
        for file in (path, note):
            file.unlink(missing_ok=True)
