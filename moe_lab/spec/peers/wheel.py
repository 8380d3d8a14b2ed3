# SPDX-License-Identifier: Apache-2.0
"""A wheel of another project, read with limits: no path leads out of it, nothing is a link, sizes are bounded."""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import Parser
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from packaging.version import InvalidVersion, Version

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line, plain_name, visible

MEMBERS = 200_000  # the largest wheels of engines have some ten thousand
FILE_BYTES = 100_000_000  # of each file that is read; the largest, vLLM's library with CUTLASS, has 93 MB
ALL_BYTES = 256_000_000  # of all files that are read
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


class Wheel:
    """An open wheel whose members have been checked.

    Attributes:
        names: paths of its files, in order.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        """Check the members; UserError if one would lie outside, is a link, or there are too many."""
        self._path, self._archive, self._left = path, archive, ALL_BYTES
        members = archive.infolist()
        if len(members) > MEMBERS:
            raise self._refused(f"has {len(members):,} files, more than {MEMBERS:,}")
        for member in members:
            self._check(member)
        self.names = list(dict.fromkeys(m.filename for m in members if not m.is_dir()))  # a zip may hold a name twice

    def _check(self, member: zipfile.ZipInfo) -> None:
        name = member.orig_filename  # as stored: zipfile cuts `filename` off at a null byte
        parts = PurePosixPath(name).parts
        # Backslashes and drive letters mean other folders on Windows.
        if "\\" in name or visible(name) != name or re.match(r"[A-Za-z]:", name):
            raise self._refused(f"has a file with the bad name '{one_line(name, 60)}'")
        if name.startswith("/") or ".." in parts or not parts:
            raise self._refused(f"has the file '{one_line(name, 60)}', which would lie outside the folder")
        kind = stat.S_IFMT(member.external_attr >> 16)  # zip keeps the Unix mode there; 0 = made elsewhere
        if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise self._refused(f"has the file '{one_line(name, 60)}', which is a link or not a plain file")

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator["Wheel"]:
        """Open a wheel; UserError if the file is not a wheel, is damaged, or has members that are refused."""
        file: IO[bytes] | None = None
        try:
            if path.is_file():
                file = path.open("rb")
                archive = zipfile.ZipFile(file)
        except _DAMAGED:
            archive = None
        if file is None or archive is None:
            if file is not None:
                file.close()
            raise UserError(
                f"'{one_line(path.name)}' is not a wheel; give a requirement such as vllm==0.15.0, or a .whl file."
            )
        with file, archive:
            yield cls(path, archive)

    def read(self, name: str) -> bytes:
        """Return one of its files; UserError if it is damaged, or larger than the limits above."""
        size = self._archive.getinfo(name).file_size  # zipfile never unpacks more than this
        if size > min(FILE_BYTES, self._left):
            raise self._refused(f"unpacks to more than a wheel of kernels should ('{one_line(name, 60)}')")
        self._left -= size
        try:
            return self._archive.read(name)
        except _DAMAGED as error:
            raise self._refused(f"is damaged ({one_line(str(error), 80) or type(error).__name__})") from None

    @cached_property
    def metadata(self) -> Message:
        """Contents of METADATA; UserError if there is none, or it is not text."""
        name = next((n for n in self.names if _METADATA.fullmatch(n)), None)
        if name is None:
            raise self._refused("has no METADATA")
        try:
            return Parser().parsestr(self.read(name).decode())
        except UnicodeDecodeError:
            raise self._refused("has METADATA that is not UTF-8 text") from None

    def name_and_version(self) -> tuple[str, str]:
        """Return the package's name, in lower case with underscores, and its version as PEP 440 writes it.

        Both become parts of a path, so anything else is refused.
        """
        said = {key: str(self.metadata[key] or "").strip() for key in ("Name", "Version")}
        try:
            name = plain_name(re.sub(r"[-.]", "_", said["Name"].lower()), "its Name")
            version = plain_name(str(Version(said["Version"])), "its Version")
        except InvalidVersion:
            raise self._refused(f"has the invalid Version '{one_line(said['Version'], 60)}' (PEP 440)") from None
        except ValueError as error:
            raise self._refused(f"has bad metadata ({error})") from None
        return name, version

    def _refused(self, why: str) -> UserError:
        return UserError(f"The wheel '{one_line(self._path.name)}' {why}; nothing was unpacked; use a released one.")
