# SPDX-License-Identifier: Apache-2.0
"""Execute notebooks with papermill, several at once, each in a kernel of this interpreter."""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from moe_lab.report import places
from moe_lab.report.model import Executed, Job
from moe_lab.report.notebooks import read
from moe_lab.spec.guard import terminal

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Kernels:
    """Where the kernels of a report have their files, and whether they have been ended."""

    folder: Path
    ended: Event


def at_once(number: int, todo: Sequence[Callable[[Kernels], _Result]]) -> list[_Result]:
    """Call each with what ``execute`` takes, so many at once, and return the results in order.

    After an exception, one of Ctrl-C too, nothing more is begun, and kernels that run are ended.
    """
    with tempfile.TemporaryDirectory(prefix="moe_lab_") as name, _environment(Path(name)):
        kernels = Kernels(Path(name), Event())
        with ThreadPoolExecutor(number) as pool:
            begun = [pool.submit(one, kernels) for one in todo]
            try:
                return [future.result() for future in begun]
            except BaseException:
                kernels.ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                while any(future.running() for future in begun):
                    _end_kernels(kernels.folder)
                    time.sleep(0.1)  # a kernel may just be starting
                raise


def execute(job: Job, progress: str, kernels: Kernels) -> Executed:
    """Run the notebook, with ``progress`` before its bar on stderr; an error in it is a result, not an exception.

    ``kernels`` are those of ``at_once``; that they have been ended is a KeyboardInterrupt.
    """
    import papermill

    # It warns of parameters whose comments have brackets as unknown, and its errors are said by the page.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    failed = None
    with tempfile.TemporaryDirectory(prefix="kernel_", dir=kernels.folder) as own:
        out = Path(own, "executed.ipynb")
        try:
            papermill.execute_notebook(
                str(job.notebook),
                str(out),
                parameters=job.parameters,
                kernel_name=_kernel(kernels.folder, Path(own)),
                progress_bar={"desc": progress, "leave": True, "file": terminal.raw(sys.stderr), "disable": None},
                language="python",
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == "KeyboardInterrupt":
                raise KeyboardInterrupt from None
            # A UserError is a sentence; others need the name of the error.
            failed = str(error.evalue) if error.ename == "UserError" else f"{error.ename}: {_first_line(error.evalue)}"
        except Exception as error:
            failed = f"The notebook could not be executed ({type(error).__name__}: {_first_line(str(error))})."
        if kernels.ended.is_set():  # whatever it died of
            raise KeyboardInterrupt
        notebook = read(out) if out.exists() else read(job.notebook)
    # papermill adds cells about the error; the page has its own place for it.
    notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    if failed:
        notebook.cells = _until_error(notebook.cells)
    places.hide(notebook, job.parameters)
    return Executed(notebook, failed and places.message(failed, job.parameters))


def _end_kernels(folder: Path) -> None:
    """Kill the kernels whose IPython folder is in this one, and what they started."""
    import psutil  # comes with ipykernel

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.environ().get("IPYTHONDIR", "").startswith(str(folder)):
                child.kill()
                child.wait(5)


def _until_error(cells: list[Any]) -> list[Any]:
    """Return the cells up to the one that failed; those after it never ran."""
    for number, cell in enumerate(cells, start=1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return cells[:number]
    return cells


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def _kernel(folder: Path, own: Path) -> str:
    """Return the name of a kernel of this interpreter, whatever kernels the user has, with plotly in its JSON form."""
    spec = folder / "jupyter" / "kernels" / own.name
    spec.mkdir(parents=True)
    settings = {
        "IPYTHONDIR": str(own / "ipython"),  # without the user's profile and start-up files
        "PLOTLY_RENDERER": "plotly_mimetype",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # silences a warning of the debugger in ipykernel
    }
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
    described = {"argv": argv, "display_name": "Python 3", "language": "python", "env": settings}
    (spec / "kernel.json").write_text(json.dumps(described))
    return own.name


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Make Jupyter look for kernels in the folder first, and keep its files there."""
    ours = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH")])),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
