"""Which AMD runs a notebook looks at: folders given by path, else those in profiles/."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from moe_lab.runs import Run, list_runs, load
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

TOOL = "rocprof-compute"


@dataclass(frozen=True)
class Counted:
    """A run with counters of an AMD GPU.

    Attributes:
        name: as shown; told apart from the other runs on the page.
        run: where it comes from.
        launches: its launches and counters, perhaps only those of some kernels.
        given: True when the reader gave it by name or path, False when it was found in profiles/.
    """

    name: str
    run: Run
    launches: Launches
    given: bool

    @property
    def gpu(self) -> str:
        """The GPU's name without its vendor."""
        name = str((self.launches.meta.get("gpu") or {}).get("name") or "unknown GPU")
        return re.sub(r"^(AMD Instinct|AMD)\s+", "", name)


def load_counted(folders: str | Sequence[str] = "", kernels: str = "") -> list[Counted]:
    """Load the runs to look at.

    Args:
        folders: workload folder, run name or run folder; several separated by commas, or as a sequence. Empty = every
            run in profiles/ that was made with rocprof-compute, which may be none.
        kernels: regex searched in full kernel names; empty = all kernels.

    Raises:
        UserError: an unknown or unreadable run, one without counters, or no kernel of that name in any of them.
    """
    named = folders.split(",") if isinstance(folders, str) else folders
    given = [n.strip() for n in named if n.strip()]
    found = [load(n) for n in given] or [r for r in list_runs() if (r.manifest.get("tool") or {}).get("name") == TOOL]
    runs = [_counted(run, bool(given)) for run in found]
    runs = _apart(runs)
    if not kernels or not runs:
        return runs
    chosen = [replace(r, launches=_only(r.launches, kernels)) for r in runs]
    kept = [r for r in chosen if len(r.launches.table)]
    if not kept:
        raise UserError(f"No kernel of {', '.join(r.name for r in runs)} matches '{kernels}'; give another expression.")
    return kept


def _counted(run: Run, given: bool) -> Counted:
    launches = run.launches()
    if not launches.meta.get("counters"):
        raise UserError(
            f"{run.manifest['name']} has no counters of AMD's rocprof-compute; give a workload folder that it made."
        )
    return Counted(str(run.manifest["name"]), run, launches, given)


def _apart(runs: list[Counted]) -> list[Counted]:
    """Tell runs of one name apart by a number."""
    names = [r.name for r in runs]
    return [
        replace(r, name=f"{r.name} ({names[: i + 1].count(r.name)})") if names.count(r.name) > 1 else r
        for i, r in enumerate(runs)
    ]


def _only(launches: Launches, kernels: str) -> Launches:
    try:
        chosen = launches.table["name_full"].astype(str).str.contains(kernels, regex=True)
    except re.error as error:
        raise UserError(f"'{kernels}' is no regular expression ({error}); give one that names kernels.") from None
    meta: dict[str, Any] = launches.meta
    return Launches(launches.table[chosen].reset_index(drop=True), launches.ranges, meta)
