# SPDX-License-Identifier: Apache-2.0
"""The file of a trace as text: plain or gzip, UTF-8 or UTF-16, no larger than fits in memory."""

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

GZIP = b"\x1f\x8b"
RATIO = 200  # most that a file may unpack to, in times its size; real traces unpack to 10 to 60 times theirs
SMALL = 100_000_000  # bytes that any file may unpack to, however small it is
CHUNK = 1 << 22
CUT = "it ends in the middle"
AGAIN = "was the profiled program stopped while it wrote the file? Write it again"


class Damaged(Exception):  # noqa: N818  # it becomes a sentence; no one sees its name
    """What is wrong with a trace, and what to do about it; ``reading`` adds the name of the file."""

    def __init__(self, why: str, then: str = "write the trace again") -> None:
        super().__init__(why)
        self.why, self.then = why, then


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while a trace is read into one sentence."""
    try:
        yield
    except Damaged as error:
        raise UserError(f"{one_line(path.name)} cannot be read as a JSON trace: {error.why}; {error.then}.") from None
    except MemoryError:
        raise UserError(
            f"{one_line(path.name)} needs more memory than there is; trace fewer steps (torch.profiler.schedule), or "
            "read it on a larger machine."
        ) from None


def head(path: Path) -> str:
    """Return the beginning of a text file, unpacked if it is gzip; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            return _decoded(file.read(65536))
    except (OSError, EOFError, zlib.error, MemoryError):
        return ""


def text(path: Path) -> str:
    """Return the whole text of a file, unpacked if it is gzip; bytes that are not text become U+FFFD.

    Raises:
        Damaged: it is not a file, cut off, or unpacks to more than ``RATIO`` times its size or a third of the memory.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("it is not a file", "give the path of the trace")
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        most = _memory() // 3  # the bytes, their text and its tables are in memory together
        with gzip.open(path) if packed else path.open("rb") as file:
            return _decoded(_read(file, most, max(RATIO * status.st_size, SMALL) if packed else most))
    except EOFError:
        raise Damaged(CUT, AGAIN) from None
    except (gzip.BadGzipFile, zlib.error):
        raise Damaged("its gzip data are damaged", "copy or write it again") from None
    except OSError as error:
        raise Damaged(error.strerror or type(error).__name__, "make the file readable") from None


def _read(file: "gzip.GzipFile | io.BufferedReader", most: int, ratio: int) -> bytearray:
    """Return all bytes, unless they are too many."""
    data = bytearray()
    while chunk := file.read(CHUNK):
        data += chunk
        if len(data) > ratio:
            raise Damaged(f"it unpacks to more than {RATIO} times its size, which no trace does")
        if len(data) > most:
            raise Damaged(
                f"it has more than {most / 1e9:.1f} GB, a third of the memory",
                "trace fewer steps (torch.profiler.schedule), or read it on a larger machine",
            )
    return data


def _decoded(data: bytes | bytearray) -> str:
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def _memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or the limit of its container."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        given = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(given)) if given.isdecimal() else found
