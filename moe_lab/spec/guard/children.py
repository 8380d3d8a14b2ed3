"""Processes that measure for another one: how they ended, and what to do when they hang."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from moe_lab.spec.errors import UserError

POLL_S = 0.2
STOP_S = 10.0


def died(code: int) -> str:
    """Return what an exit code means, as a verb: ``was killed by SIGSEGV``."""
    names = {int(s): s.name for s in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"stopped with exit code {code}"


class Terminated(KeyboardInterrupt):
    """This command was told to end (SIGTERM, SIGHUP), which its processes were not."""


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process; if this command is stopped, the process comes to its end first.

    The keyboard stops both, and a profiler then writes its report: it is waited for, until the keyboard says so again.
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
    """End a process: by asking, and after ``STOP_S`` seconds by force."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def watch(argv: Sequence[str], note: Path, patience_s: float, *, until_noted: bool = False) -> str | None:
    """Run a measuring process; return how it died, None if it came to its end.

    Args:
        argv: its command.
        note: file whose change shows that it goes on.
        patience_s: how long the note may stay the same.
        until_noted: whether to wait for the first note without end.

    Raises:
        UserError: it explained a mistake (and has printed it).
    """
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    last = ("", time.monotonic())
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_S)
            said = note.read_text() if note.exists() else ""
            last = last if said == last[0] else (said, time.monotonic())
            if (said or not until_noted) and time.monotonic() - last[1] > patience_s:
                process.kill()
                process.wait()
                return f"hung for {patience_s:g} s"
    except KeyboardInterrupt as error:
        if isinstance(error, Terminated):
            stop(process)
        process.wait()
        raise
    if code == 2:
        raise UserError("The measuring process refused; see its sentence above.")
    return None if code == 0 else died(code)
