# SPDX-License-Identifier: Apache-2.0
"""A tuning as a run: start the process that tunes; keep its rows and the file of tiles that results from them."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from moe_lab import runs
from moe_lab.runs import bench_runs, rows
from moe_lab.runs.capture._facts import gpu_name
from moe_lab.spec import configs
from moe_lab.spec.configs import choose
from moe_lab.spec.errors import REFUSED, RefusedError, UserError
from moe_lab.spec.guard import places
from moe_lab.spec.guard.places import full_name


def journal_path(name: str, root: Path | None = None) -> Path:
    """Return the file with the rows of an unfinished tuning, beside the run ``<gpu>/<run>``."""
    target = (root or runs.profiles_root()) / name
    return target.with_name(f".tune-{target.name}.jsonl")


def measure(
    arguments: Sequence[str], name: str, *, budget: str, root: Path | None = None, overwrite: bool = False
) -> tuple[runs.Run, int]:
    """Tune in processes of their own until the time budget is spent; an unfinished tuning of that name is continued.

    Args:
        arguments: options of ``bench_options.add_tune``.
        name: ``<run>`` or ``<gpu>/<run>``.
        budget: the time budget among the options, for messages.
        root: profiles folder.
        overwrite: start again from scratch, and replace a run of that name.

    Returns:
        The run, with its file of tiles if any M has a result, and the exit code of the process.

    Raises:
        UserError: torch is missing, the name is bad or taken, or nothing was measured.
    """
    if find_spec("torch") is None:
        raise UserError("Tuning needs torch and a GPU here: pip install 'moe-lab[gpu]'.")
    full = full_name(name, gpu_name())
    journal = journal_path(full, root)
    if not overwrite and not journal.exists() and (journal.parent / full.split("/")[-1]).exists():
        raise UserError(f"A finished run '{full}' already exists; choose another name or pass --overwrite.")
    # Always overwrites: each continued part of a tuning replaces the run of the part before.
    with places.claim(root or places.profiles_root(), full, overwrite=True) as held:
        if overwrite:
            journal.unlink(missing_ok=True)
        before = _size(journal)
        code = bench_runs.wait([sys.executable, "-m", "moe_lab.gpu", "tune", *arguments, "--out", str(journal)])
        if code == REFUSED and _size(journal) == before:
            raise RefusedError("The tuning refused; see its output above.")
        if not rows.is_result(journal):
            raise UserError(f"The tuning {bench_runs.stopped(code)} before it measured anything; see its output above.")
        if b'"phase":' not in journal.read_bytes():  # a key of every row
            raise UserError(f"Nothing was measured in {budget}; run it again with a longer --budget.")
        given = {"command": ["moe-lab", "tune", *arguments, "--name", name.split("/")[-1]]}
        run = bench_runs.import_bench([journal], full, root=root, manifest=given, overwrite=True, held=held)
        tuned = choose.tuned(choose.records(run.rows()), run.manifest)
        if tuned is not None:
            configs.write(tuned, run.path)
        if run.manifest["rows"]["complete"]:
            journal.unlink()
        return run, code


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
