# SPDX-License-Identifier: Apache-2.0
"""Many machines through dask.distributed: where its workers are, and one case of a benchmark on one GPU of a worker.

Dask, because one engine serves a workstation, machines that already run its workers, and Slurm (dask-jobqueue), all
in Python and without a service of its own to install.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

PLACES = "dask://HOST:PORT (a running scheduler), dask://local:2 (workers here) or slurm:8 (jobs of one GPU)"
LEAST_MEMORY = "32GB"  # of a Slurm job, where dask's own configuration states nothing
_SAID = 400  # characters of a failed process's last words


@dataclass(frozen=True)
class Done:
    """What a case left.

    Attributes:
        result: what the measuring process wrote to its file; empty if nothing.
        code: its exit code.
        said: the end of its stderr.
    """

    result: str
    code: int
    said: str


@contextmanager
def client(on: str) -> Iterator[Any]:
    """Yield a client of dask's workers; those that were started here or as Slurm jobs end with it.

    Args:
        on: one of ``PLACES``.

    Raises:
        UserError: it is another text, dask is missing, or the scheduler cannot be reached.
    """
    found = re.fullmatch(
        r"(?P<kind>dask://local|slurm)(:(?P<count>[1-9]\d{0,3}))?|dask://(?!local:)(?P<host>[\w.-]+:\d+)", on
    )
    if found is None:
        raise UserError(f"'{one_line(on, 60)}' is no place to measure on; write {PLACES}.")
    needed = "dask_jobqueue" if found["kind"] == "slurm" else "distributed"
    if find_spec(needed) is None:
        raise UserError(f"Measuring on other machines needs {needed}: pip install 'moe-lab[cluster]'.")
    from distributed import Client

    workers = _workers(found["kind"], int(found["count"] or 0)) if found["kind"] else None
    try:
        with Client(workers if workers is not None else f"tcp://{found['host']}", timeout=30) as opened:
            yield opened
    except OSError as error:
        raise UserError(f"The scheduler of '{one_line(on, 60)}' does not answer ({type(error).__name__}).") from None
    finally:
        if workers is not None:
            workers.close()


def _workers(kind: str, count: int) -> Any:
    if kind == "slurm":
        return slurm(count or 1)
    from distributed import LocalCluster

    return LocalCluster(n_workers=count or len(gpus()) or 1, threads_per_worker=1, dashboard_address="127.0.0.1:0")


def slurm(jobs: int) -> Any:
    """Return a dask_jobqueue.SLURMCluster that has asked for jobs of one GPU and one worker each.

    Partition, account, walltime and memory are read from dask's own configuration (``jobqueue.slurm``).
    """
    import dask
    from dask_jobqueue import SLURMCluster

    memory = dask.config.get("jobqueue.slurm.memory", None) or LEAST_MEMORY
    extra = [*(dask.config.get("jobqueue.slurm.job-extra-directives", None) or []), "--gpus=1"]
    cluster = SLURMCluster(cores=1, processes=1, memory=memory, job_extra_directives=extra)
    cluster.scale(jobs=jobs)
    return cluster


def case(words: Sequence[str]) -> Done:
    """Run one case in a process that sees one GPU; called on a worker.

    Args:
        words: after ``python``; ``--out FILE`` is added.
    """
    with pinned() as gpu, tempfile.TemporaryDirectory(prefix="moe_lab_case_") as folder:
        out = Path(folder) / "rows.json"
        seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        argv = [sys.executable, *words, "--out", str(out)]
        ended = subprocess.run(argv, env=os.environ | seen, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = ended.stderr.decode(errors="replace")[-_SAID:]
        return Done(out.read_text() if out.exists() else "", ended.returncode, said)


def gpus() -> list[str]:
    """Return the GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else all of NVIDIA's."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip()]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


@contextmanager
def pinned(pause_s: float = 0.2) -> Iterator[str | None]:
    """Yield a visible GPU that no other case of this user holds, waiting for one; None without GPUs.

    The lock ends with the process, however that ends. Jobs of Slurm may call different GPUs by one number.
    """
    names, job = gpus(), os.environ.get("SLURM_JOB_ID", "")
    while names:
        for name in names:
            plain = re.sub(r"[^\w-]", "_", f"{job}_{name}")
            file = Path(tempfile.gettempdir()) / f"moe_lab_gpu_{os.getuid()}_{plain}.lock"
            handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            try:
                yield name
                return
            finally:
                os.close(handle)
        time.sleep(pause_s)
    yield None
