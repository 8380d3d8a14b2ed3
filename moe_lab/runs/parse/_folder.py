"""Files of a report that is a folder: how far it is searched, and which links are followed."""

import os
from pathlib import Path

from moe_lab.spec.errors import UserError

ENTRIES = 20_000  # files and folders that are looked at; a report of one run has some hundreds


def files(folder: Path, ends: tuple[str, ...], depth: int) -> list[Path]:
    """Return files below a folder, sorted level by level; links that lead out of it are left out.

    Args:
        folder: the folder.
        ends: how their names end.
        depth: levels of folders: 1 = only the files of the folder itself.

    Raises:
        UserError: it holds more than ``ENTRIES`` files and folders, so that it is no report.
    """
    found: list[Path] = []
    level, seen, root = [folder], 0, folder.resolve()
    for _ in range(depth):
        below: list[Path] = []
        for place in level:
            for item in _items(place):
                seen += 1
                if seen > ENTRIES:
                    raise UserError(
                        f"'{folder.name or folder}' holds more than {ENTRIES} files and folders; give the folder that "
                        "the profiler wrote."
                    )
                if item.is_dir(follow_symlinks=False):
                    below.append(Path(item.path))
                elif item.name.endswith(ends) and item.is_file() and _inside(item, root):
                    found.append(Path(item.path))
        level = sorted(below)
    return sorted(found, key=lambda p: (len(p.parts), p))


def inside(path: Path, folder: Path) -> bool:
    """Return whether a path is a file that lies in a folder once links are followed."""
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(folder.resolve()))


def _inside(item: "os.DirEntry[str]", root: Path) -> bool:
    return not item.is_symlink() or Path(item.path).resolve().is_relative_to(root)


def _items(place: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(place) as found:
            return [item for _, item in zip(range(ENTRIES + 1), found, strict=False)]
    except OSError:  # a folder of others in between: what cannot be listed is no part of the report
        return []
