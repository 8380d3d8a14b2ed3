# SPDX-License-Identifier: Apache-2.0
"""The templates of a report, and how its files are written."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from moe_lab import __version__

TEMPLATES = Path(str(resources.files(__package__))) / "templates"


def render(template: str, **shown: Any) -> str:
    """Return a template filled with what it shows, escaped, and the version of moe_lab."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(version=__version__, **shown)


def replace(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: readers see the old or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
