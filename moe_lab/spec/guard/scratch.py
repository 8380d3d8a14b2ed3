# SPDX-License-Identifier: Apache-2.0
"""Temporary folders of a running command: readable by their owner only, and removed by the next one if it is killed.

Each folder has a file on which its process holds a lock. The lock ends with the process, however that ends, so a folder
whose lock can be taken has no owner any more. Process ids could not tell, because the system reuses them.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from moe_lab.spec.errors import UserError

OWNER = ".moe_lab_owner"
PREFIX = "moe_lab_"


@dataclass
class Scratch:
    """A temporary folder of this command.

    Attributes:
        folder: where files go; only this user can read it.
        worth_keeping: whether its contents were expensive: if the command then fails, it stays and is named.
    """

    folder: Path
    worth_keeping: bool = False


def own(folder: Path) -> int:
    """Mark a new folder as owned by this process; return the descriptor that holds its lock."""
    new = folder / f"{OWNER}.new"
    handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    with suppress(OSError):  # on a file system without locks the folder never counts as left behind
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.rename(folder / OWNER)  # after the lock, so that nobody sees the mark without it
    return handle


@contextmanager
def left_behind(folder: Path) -> Iterator[bool]:
    """Yield whether a folder is ours and its process is gone; no other command finds it so until the end."""
    handle, gone = None, False
    try:
        found = folder.lstat()  # lstat and O_NOFOLLOW: in /tmp others may put links in our way
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            handle = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the open and the lock, another command may have removed the folder and made a new one.
            gone = os.fstat(handle).st_ino == (folder / OWNER).lstat().st_ino
    except OSError:
        gone = False
    try:
        yield gone
    finally:
        if handle is not None:
            os.close(handle)


def sweep(parent: Path, pattern: str = f"{PREFIX}*") -> list[str]:
    """Remove the folders that killed commands left in a folder; return a sentence on each."""
    said = []
    with suppress(OSError):
        for folder in sorted(parent.glob(pattern)):
            with left_behind(folder) as gone:
                if gone:
                    said.append(f"removed {removed(folder)} from the folder for temporary files.")
                    shutil.rmtree(folder, ignore_errors=True)
    return said


def removed(folder: Path) -> str:
    """Return words for what a killed command left: how much, and from when."""
    files = [path.lstat() for path in folder.rglob("*") if path.name != OWNER and not path.is_dir()]
    size = sum(found.st_size for found in files) / 1e6
    when = datetime.fromtimestamp((folder / OWNER).lstat().st_mtime)
    return (
        f"what a killed command had left ({len(files)} {'file' if len(files) == 1 else 'files'}, {size:.1f} MB, begun "
        f"{when:%Y-%m-%d %H:%M})"
    )


@contextmanager
def private(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Scratch]:
    """Yield a temporary folder that only this user can read; it is removed at the end.

    A folder that is ``worth_keeping`` stays if something fails, Ctrl-C included, and the error says where it is.

    Args:
        parent: where; by default the system's folder for temporary files.
        prefix: beginning of its name.

    Raises:
        UserError: it cannot be made, or something failed when its contents were worth keeping.
    """
    place = parent or Path(tempfile.gettempdir())
    sweep(place, f"{prefix}*")
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        handle = own(folder)
    except OSError as error:
        raise UserError(
            f"Temporary files cannot be written ({error.strerror}); set TMPDIR to a folder that can be written to."
        ) from None
    scratch = Scratch(folder)
    try:
        yield scratch
    except BaseException as error:
        kept = _kept(scratch)
        if not kept:
            raise
        said = f"{_sentence(error)} {kept}"
        if isinstance(error, KeyboardInterrupt):  # of its own type, which decides the exit code
            raise type(error)(said) from error
        raise UserError(said) from error
    finally:
        os.close(handle)
        if (folder / OWNER).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _kept(scratch: Scratch) -> str:
    """Take the mark off a folder that is worth keeping, so that no command removes it; return a sentence on it."""
    files = [p for p in scratch.folder.rglob("*") if p.is_file() and p.name != OWNER and p.stat().st_size]
    if not scratch.worth_keeping or not files:
        return ""
    (scratch.folder / OWNER).unlink()
    return (
        f"What was recorded is kept unredacted (it may hold names, paths and secrets) in {scratch.folder}, which only "
        "you can read; `moe-lab import` makes a run of it."
    )


def _sentence(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped."
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}."
    return f"{type(error).__name__} ({next(iter(str(error).splitlines()), '')[:200]})."
