# SPDX-License-Identifier: Apache-2.0
"""What a command prints and how it ends: no control characters, one sentence on an error, and an exit code."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from moe_lab.spec.errors import REFUSED, RefusedError, UserError
from moe_lab.spec.guard.children import Terminated
from moe_lab.spec.guard.entry import visible

TRACEBACK = "MOE_LAB_TRACEBACK"  # if set, a defect also prints its traceback


class Guarded:
    """A text stream that writes control characters, and characters outside its encoding, as escapes."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; line ends and tabs stay as they are."""
        plain = visible(text.replace("\x7f", r"\u007f"), keep="\n\t")  # in this form it is valid in JSON too
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(plain.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts one after the other; ``__getattr__`` would hand this to the unguarded stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def raw(stream: Any) -> Any:
    """Return the stream below ``Guarded``: for a progress bar, which moves the cursor and shows only names of ours."""
    return stream.stream if isinstance(stream, Guarded) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Guarded(raw(before[0])), Guarded(raw(before[1]))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def ended(run: Callable[[], int]) -> int:
    """Run a command; return its exit code: its own, 2 with a sentence for a user's mistake, 130 if it was stopped.

    Unforeseen errors become a sentence too; $MOE_LAB_TRACEBACK adds the traceback.
    """
    with guarded(), _signals():
        try:
            code = run()
            sys.stdout.flush()
        except RefusedError:
            return REFUSED
        except UserError as error:
            return _said(str(error), REFUSED)
        except Terminated as error:
            return _said(str(error) or "stopped.", 143)  # as shells report SIGTERM: 128 + 15
        except KeyboardInterrupt as error:
            return _said(str(error) or "stopped.", 130)  # 128 + SIGINT
        except BrokenPipeError:  # the reader, such as `head`, has read enough
            _silence()
            return 0
        except Exception as error:
            return _unforeseen(error)
    return code


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, so that what it was making is removed first."""

    def end(number: int, frame: Any) -> None:
        raise Terminated

    main = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _said(sentence: str, code: int) -> int:
    print(f"moe-lab: {visible(sentence)}", file=sys.stderr)  # noqa: T201
    return code


def _unforeseen(error: Exception) -> int:
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError):
        _silence()  # if stdout is full, the interpreter's last flush would fail again
        return _said(f"{error.strerror or type(error).__name__}{_place(error)}; choose another place.", 2)
    why = next(iter(str(error).splitlines()), "")[:200]
    return _said(f"{type(error).__name__} ({why}): a defect of moe-lab; {TRACEBACK}=1 shows where.", 2)


def _place(error: OSError) -> str:
    name = os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    return f": '{name[:100]}'" if name else ""


def _silence() -> None:
    """Send the interpreter's last flush to nowhere if stdout cannot be written, as Python's documentation advises."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
