# SPDX-License-Identifier: Apache-2.0
"""Find profilers on this machine and ask them for their version."""

import glob
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A profiler that was found.

    Attributes:
        path: the executable.
        version: what it says of itself, such as ``2025.3.1``; None when it does not say.
    """

    path: Path
    version: str | None


def find_tool(binary: str, patterns: tuple[str, ...] = ()) -> Path | None:
    """Return the executable from PATH, else the newest one that matches a glob pattern, else None."""
    on_path = shutil.which(binary)
    if on_path:
        return Path(on_path)
    found = [p for pattern in patterns for p in glob.glob(os.path.expandvars(pattern))]
    usable = [p for p in found if os.access(p, os.X_OK) and os.path.isfile(p)]
    version = lambda path: [int(n) for n in re.findall(r"\d+", path)]  # noqa: E731
    return Path(max(usable, key=version)) if usable else None


def available(binary: str, patterns: tuple[str, ...], how: str) -> Tool | str:
    """Return this machine's profiler, or a sentence on why there is none and how to get it."""
    path = find_tool(binary, patterns)
    return probe(path) if path else f"{binary} was not found; {how}."


def probe(path: Path) -> Tool:
    """Return the tool with the version number that ``path --version`` prints."""
    text = output([str(path), "--version"]) or ""
    found = re.search(r"\d{4}\.\d+(?:\.\d+)?|\d+\.\d+(?:\.\d+)*", text)
    return Tool(path, found.group(0) if found else None)


def output(argv: list[str], timeout_s: float = 30) -> str | None:
    """Return what a command prints, or None when it cannot run or fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
