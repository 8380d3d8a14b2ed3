# SPDX-License-Identifier: Apache-2.0
"""Files of a report that is a folder: how deep it is searched, and which links are followed."""

import os
from pathlib import Path

from moe_lab.spec.errors import UserError

ENTRIES = 20_000  # most files and folders to look at; the report of one run has some hundreds


def files(folder: Path, ends: tuple[str, ...], depth: int) -> list[Path]:
    """Return the files below a folder whose names end in one of ``ends``, level by level, without links that lead out.

    ``depth`` is the number of levels that are searched: 1 = only the folder itself.
    """
    found: list[Path] = []
    seen = 0
    # os.walk skips folders that cannot be listed, such as those of other users: they are no part of the report.
    for place, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        if seen > ENTRIES:
            raise UserError(
                f"'{folder.name or folder}' holds more than {ENTRIES} files and folders; give the folder that the "
                "profiler wrote."
            )
        if len(Path(place).relative_to(folder).parts) == depth - 1:
            folders.clear()  # os.walk does not go into what is removed here
        paths = (Path(place, name) for name in names if name.endswith(ends))
        found += [path for path in paths if inside(path, folder)]
    return sorted(found, key=lambda p: (len(p.parts), p))


def inside(path: Path, folder: Path) -> bool:
    """Return whether a path is a file that lies in a folder once links are followed."""
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(folder.resolve()))
