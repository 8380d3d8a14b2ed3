"""The recipes of CONTRIBUTING.md as they stand there, and a copy of the project in which they are followed."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from checkout import REPO

NAME = "newcomer"


@dataclass(frozen=True)
class Step:
    """A code block: a file of its own, or an entry of another file, below the line ``below``."""

    path: str
    below: str
    text: str

    def follow(self, root: Path) -> None:
        """Write the file, or put the entry where the recipe says."""
        path = root / self.path
        path.parent.mkdir(exist_ok=True)
        text = self.text
        if self.below:
            before, line, after = path.read_text().partition(f"{self.below}\n")
            assert line, f"{self.path} has no line '{self.below}'"
            text = f"{before}{line}{text}{after}"
        else:
            assert not path.exists(), f"{self.path} is there already"
        path.write_text(text)


_PLACE = r"^`((?:moe_lab|notebooks)/[^`]+)`(?:, below `([^`]+)`)?[^\n]*(?:\n[^\n]+)*\n\n"
_BLOCK = re.compile(_PLACE + r"```\w+\n(.*?)^```", re.M | re.S)
_SECTIONS = re.findall(r"^## Add an? (.+?)\n(.*?)(?=^## |\Z)", (REPO / "CONTRIBUTING.md").read_text(), re.M | re.S)
RECIPES = {
    title: [Step(path.replace("<name>", NAME), below, text) for path, below, text in found]
    for title, section in _SECTIONS
    if (found := _BLOCK.findall(section))
}


def only(title: str) -> str:
    """Return the text of a recipe that is one file."""
    [step] = RECIPES[title]
    return step.text


class House:
    """A copy of the project in ``root``, in which recipes are followed."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("moe_lab", "notebooks", "tests", "docs"):
            shutil.copytree(REPO / name, root / name)  # with its bytecode: compiling it again takes seconds
        for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
            shutil.copy(REPO / name, root)

    def follow(self, *titles: str) -> None:
        """Do what the recipes say."""
        for step in (step for title in titles for step in RECIPES[title]):
            step.follow(self.root)

    def python(self, *arguments: str) -> str:
        """Return what Python prints there; it fails where Python does."""
        paths = os.pathsep.join([str(self.root), str(self.root / "tests" / "builders")])
        env = {**os.environ, "PYTHONPATH": paths, "MOE_LAB_PROFILES": str(REPO / "profiles")}
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=self.root, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
