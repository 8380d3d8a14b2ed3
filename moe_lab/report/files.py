"""Writes the files of a report."""

import os
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: readers see the old or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
