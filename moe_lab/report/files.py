"""Where the templates of a report are, and how its files are written."""

import os
from importlib import resources
from pathlib import Path

TEMPLATES = Path(str(resources.files(__package__))) / "templates"


def replace(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: readers see the old or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
