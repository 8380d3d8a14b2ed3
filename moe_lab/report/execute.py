# SPDX-License-Identifier: Apache-2.0
"""Execute one notebook with papermill, in a kernel of this interpreter."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moe_lab.report import places
from moe_lab.report.model import Executed, Job
from moe_lab.report.notebooks import read
from moe_lab.spec.guard import terminal

_KERNEL = "moe-lab-report"


def execute(job: Job, progress: str) -> Executed:
    """Run the notebook, with ``progress`` before its bar on stderr; an error in it is a result, not an exception."""
    import papermill

    # It warns of parameters whose comments have brackets as unknown; unknown ones are refused before.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    failed = None
    with tempfile.TemporaryDirectory(prefix="moe_lab_") as folder:
        out = Path(folder, "executed.ipynb")
        with _environment(Path(folder)):
            try:
                papermill.execute_notebook(
                    str(job.notebook),
                    str(out),
                    parameters=job.parameters,
                    kernel_name=_KERNEL,
                    progress_bar={"desc": progress, "leave": True, "file": terminal.raw(sys.stderr), "disable": None},
                    language="python",
                )
            except papermill.PapermillExecutionError as error:
                if error.ename == "KeyboardInterrupt":
                    _end_kernel(folder)
                    raise KeyboardInterrupt from None
                # A UserError is a sentence; others need the name of the error.
                failed = (
                    str(error.evalue) if error.ename == "UserError" else f"{error.ename}: {_first_line(error.evalue)}"
                )
            except KeyboardInterrupt:
                _end_kernel(folder)  # before its folder is deleted; otherwise it would go on and complain
                raise
            except Exception as error:
                failed = f"The notebook could not be executed ({type(error).__name__}: {_first_line(str(error))})."
        notebook = read(out) if out.exists() else read(job.notebook)
    # papermill adds cells about the error; the page has its own place for it.
    notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    if failed:
        notebook.cells = _until_error(notebook.cells)
    places.hide(notebook, job.parameters)
    return Executed(notebook, failed and places.message(failed, job.parameters))


def _end_kernel(folder: str) -> None:
    """Kill the kernel whose connection file is in the folder."""
    import psutil  # comes with ipykernel

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(folder in part for part in child.cmdline()):
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


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Make Jupyter use this interpreter, whatever kernels the user has, and plotly its JSON form."""
    spec = folder / "jupyter" / "kernels" / _KERNEL
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    ours = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH")])),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),  # without the user's profile and start-up files
        "PLOTLY_RENDERER": "plotly_mimetype",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # silences a warning of the debugger in ipykernel
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
