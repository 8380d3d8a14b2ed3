"""A tuning as a run: start the process that tunes, keep its rows and the file of tiles that they amount to."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from moe_lab import runs
from moe_lab.runs import bench_runs, rows
from moe_lab.runs.capture._facts import gpu_name
from moe_lab.spec import configs
from moe_lab.spec.configs import choose
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places
from moe_lab.spec.guard.places import full_name


def journal_path(name: str, root: Path | None = None) -> Path:
    """Return where the rows of an unfinished tuning lie, beside the run ``<gpu>/<run>``."""
    target = (root or runs.profiles_root()) / name
    return target.with_name(f".tune-{target.name}.jsonl")


def measure(
    arguments: Sequence[str], name: str, *, budget: str, root: Path | None = None, overwrite: bool = False
) -> tuple[runs.Run, int]:
    """Tune in processes of their own, for as long as the budget says; an unfinished tuning of that name goes on.

    Args:
        arguments: options of ``bench_options.add_tune``.
        name: ``<run>`` or ``<gpu>/<run>``.
        budget: of the options, to be said.
        root: profiles folder.
        overwrite: begin anew, and replace a run of that name.

    Returns:
        The run, with its file of tiles where an M has a result, and the exit code of the process.

    Raises:
        UserError: torch is missing, the name is bad or taken, or nothing was measured.
    """
    if find_spec("torch") is None:
        raise UserError("Tuning needs torch and a GPU here: pip install 'moe-lab[gpu]'.")
    full = full_name(name, gpu_name())
    journal = journal_path(full, root)
    if not overwrite and not journal.exists() and (journal.parent / full.split("/")[-1]).exists():
        raise UserError(f"There already is a finished run '{full}'; choose another name or pass --overwrite.")
    with places.claim(root or places.profiles_root(), full, overwrite=True) as held:
        if overwrite:
            journal.unlink(missing_ok=True)
        code = bench_runs.wait([sys.executable, "-m", "moe_lab.gpu", "tune", *arguments, "--out", str(journal)])
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
