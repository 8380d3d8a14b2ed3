# SPDX-License-Identifier: Apache-2.0
"""One capture from start to end: everything is checked before the command runs, and nothing is lost afterwards."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe_lab.runs import Run, import_report
from moe_lab.runs.capture._facts import gpu_name, ours
from moe_lab.spec.errors import REFUSED, RefusedError, UserError
from moe_lab.spec.guard import children, places, scratch
from moe_lab.spec.guard.places import full_name, profiles_root

WORKLOAD_JSON = "MOE_LAB_WORKLOAD_JSON"


class Work:
    """What a capture has while it runs.

    Attributes:
        folder: private folder for the raw report; if something fails after the command ran, it is kept and the user
            is told where it is.
        said: the file in which our own workload describes itself.
        name: name of the run; if it names no GPU, the report does.
        overwrite: whether an existing run of that name is replaced.
    """

    def __init__(self, name: str, root: Path, overwrite: bool, private: scratch.Scratch, held: places.Claim):
        self.folder = private.folder
        self.said = private.folder / "workload.json"
        self.name, self.overwrite, self._root = name, overwrite, root
        self._private, self._held = private, held

    @property
    def env(self) -> dict[str, str]:
        """The environment of the command."""
        return {**os.environ, WORKLOAD_JSON: str(self.said)}

    def started(self) -> None:
        """Note that the command is about to run: from now on the folder is worth keeping."""
        self._private.worth_keeping = True

    def run(self, argv: Sequence[str], tool: str, hint: str = "") -> None:
        """Run the profiler; raises UserError if it fails, with ``hint`` at the end of the sentence."""
        self.started()
        code = children.wait(subprocess.Popen(list(argv), env=self.env))
        if code == REFUSED and ours(argv):
            self._private.worth_keeping = False  # it stopped before the part that is recorded
            raise RefusedError("The workload refused; see its output above.")
        if code:
            raise UserError(
                f"The profiled command (or {tool}) stopped with exit code {code}, see its output above.{hint}"
            )

    def keep(self, report: Path, manifest: Mapping[str, Any]) -> Run:
        """Make the run folder from the report."""
        place = {"root": self._root, "overwrite": self.overwrite, "held": self._held}
        return import_report(report, self.name, manifest=manifest, **place)  # type: ignore[arg-type]


@contextmanager
def prepared(name: str, root: Path | None, overwrite: bool) -> Iterator[Work]:
    """Claim the run folder and make a private folder for the raw report, before anything runs.

    The arguments are those of ``capture``; a name without a GPU stands for this machine's first GPU until the report
    says which it was.
    """
    place = root or profiles_root()
    full = full_name(name, gpu_name())
    with places.claim(place, full, overwrite=overwrite) as held, scratch.private() as private:
        yield Work(name, place, overwrite, private, held)
