"""Starts the measuring process again when it dies: the tile that it was at is left out, the others go on."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moe_lab.gpu.bench.supervise import run_again
from moe_lab.gpu.bench.tune.session import State
from moe_lab.spec.errors import UserError


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
    state = State()

    def learn(keys: list[Any], how: str) -> bool:
        print(f"\nThe measuring process {how} at {keys[:3]}; it goes on without that.", file=sys.stderr)  # noqa: T201
        if not keys or keys[0] in (state.alone if len(keys) > 1 else [key for key, _ in state.dead]):
            raise UserError(f"The measuring process {how} twice at the same place; see its output above.")
        if len(keys) == 1:
            state.dead.append((keys[0], f"the process {how}"))
        else:
            state.alone += keys
        return now() <= until

    run_again(argv, state, out, patience_s, learn, "tile", until_noted=True)
