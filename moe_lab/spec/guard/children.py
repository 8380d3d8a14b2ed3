# SPDX-License-Identifier: Apache-2.0
"""Child processes that measure: how they ended, and what to do when they hang."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from moe_lab.spec.errors import REFUSED, RefusedError

POLL_S = 0.2
STOP_S = 10.0


def died(code: int) -> str:
    """Return what an exit code means, as a verb: ``was killed by SIGSEGV``."""
    names = {int(s): s.name for s in signal.Signals}  # real-time signals have no name
    return f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"stopped with exit code {code}"


class Terminated(KeyboardInterrupt):
    """This command was told to end (SIGTERM, SIGHUP), but its child processes were not."""


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process; if this command is stopped, the process is brought to its end first.

    Ctrl-C reaches both, and a profiler then writes its report: we wait for it, until Ctrl-C is pressed again.
    """
    try:
        return process.wait()
    except Terminated:
        stop(process)
        raise
    except KeyboardInterrupt:
        try:
            process.wait()
        except BaseException:
            stop(process)
            raise
        raise


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process: ask it to, and kill it after ``STOP_S`` seconds."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def watch(argv: Sequence[str], note: Path, patience_s: float, *, until_noted: bool = False) -> str | None:
    """Run a measuring process; return how it died, None if it finished.

    Args:
        argv: its command.
        note: file whose changes show that it is making progress.
        patience_s: how long the note may stay the same.
        until_noted: whether to wait for the first note without a limit.

    Raises:
        RefusedError: it has said why.
    """
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)  # stderr stays the terminal: its messages are shown
    last = ("", time.monotonic())
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_S)
            said = note.read_text() if note.exists() else ""
            last = last if said == last[0] else (said, time.monotonic())
            if (said or not until_noted) and time.monotonic() - last[1] > patience_s:
                process.kill()  # what hangs in a kernel does not answer SIGTERM
                process.wait()
                return f"hung for {patience_s:g} s"
    except KeyboardInterrupt as error:
        if isinstance(error, Terminated):
            stop(process)
        process.wait()
        raise
    if code == REFUSED:
        raise RefusedError("The measuring process refused; see its message above.")
    return None if code == 0 else died(code)
