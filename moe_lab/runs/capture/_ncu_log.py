# SPDX-License-Identifier: Apache-2.0
"""What Nsight Compute's messages say: progress, passes per kernel, why it failed, and which chips it knows."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs.capture._facts import compute_capability
from moe_lab.runs.capture._tools import Tool, output
from moe_lab.spec.guard import terminal

# ==PROF== Profiling "fused_moe" - 0: 0%....50%....100% - 9 passes
_DONE = re.compile(r'==PROF== Profiling "[^"]*"[^\n]*?(?: - )?(\d+) pass(?:es)?')
NO_PERMISSION = (
    "The driver does not let this user read hardware counters (ERR_NVGPUCTRPERM), and nothing inside a container can "
    "change that: on the host, give the driver the option NVreg_RestrictProfilingToAdminUsers=0 (the line 'options "
    "nvidia NVreg_RestrictProfilingToAdminUsers=0' in /etc/modprobe.d, then reload the nvidia module or restart), or "
    "start the process with CAP_SYS_ADMIN (a container with --cap-add SYS_ADMIN)."
)
NEWER = "install a newer one (package nsight-compute of NVIDIA's CUDA repository) or put it on PATH first"
_POLL_S = 0.3
# Compute capability -> how `ncu --list-chips` begins the names of its chips.
CHIPS = {
    **{"7.0": "gv100", "7.5": "tu1", "8.0": "ga100", "8.6": "ga10", "8.9": "ad10", "9.0": "gh100"},
    **{"10.0": "gb100", "12.0": "gb20"},
}
_CHIP = re.compile(r"\b[a-z]{2}\d[0-9a-z]{1,3}\b")


@dataclass(frozen=True)
class Replay:
    """What the measurement cost.

    Attributes:
        kernels: number of kernels profiled.
        passes: passes over all kernels: each is run again for every group of counters that fits the hardware.
        most_passes: most passes over one kernel.
        wall_s: seconds from start to end of the command under ncu.
    """

    kernels: int
    passes: int
    most_passes: int
    wall_s: float


def run(argv: Sequence[str], log: Path, env: Mapping[str, str], expected: int | None) -> tuple[int, Replay]:
    """Run ncu with a progress bar on stderr; return (exit code, what it cost).

    ``argv`` must make ncu write its messages to ``log``. ``expected`` is the number of kernels that will be profiled,
    from which the bar estimates the time left; None = not known.
    """
    from tqdm import tqdm

    began = time.perf_counter()
    process = subprocess.Popen(argv, env=dict(env))
    try:
        with tqdm(
            total=expected, unit=" kernels", desc="ncu", leave=False, file=terminal.raw(sys.stderr), disable=None
        ) as bar:
            # The messages go to a file and not through a pipe, as the command needs stdout and stderr for itself.
            while process.poll() is None:
                time.sleep(_POLL_S)
                bar.update(len(passes(read(log))) - bar.n)
    finally:
        if process.poll() is None:  # the loop was interrupted
            process.terminate()
            process.wait()
    found = passes(read(log))
    wall = round(time.perf_counter() - began, 1)
    return process.returncode, Replay(len(found), sum(found), max(found, default=0), wall)


def passes(text: str) -> list[int]:
    """Return the number of passes of each profiled kernel, in order."""
    return [int(found) for found in _DONE.findall(text)]


def explain(text: str, code: int, version: str | None) -> str | None:
    """Return why ncu got no counters; None where the ``text`` of its messages gives no reason."""
    if "ERR_NVGPUCTRPERM" in text:
        return NO_PERMISSION
    if re.search(r"not supported on (?:this )?device|[Uu]nsupported GPU|UnsupportedGpu", text):
        return (f"Nsight Compute {version or ''} does not know this GPU; {NEWER}.").replace("  ", " ")
    # Only one tool at a time can program the counters.
    if "resource" in text and "unavailable" in text.lower():
        return "Another process is reading this GPU's counters (ncu, DCGM or nsys); stop it and measure again."
    errors = [line.partition("==ERROR==")[2].strip() for line in text.splitlines() if "==ERROR==" in line]
    # "No kernels were profiled" alone is left to the caller, who can say which filter matched nothing.
    if code and (errors or "No kernels were profiled" not in text):
        said = f" ({errors[0].rstrip('.')})" if errors else ""
        return f"The profiled command (or ncu) stopped with exit code {code}{said}, see above."
    return None


def read(log: Path) -> str:
    """Return the messages so far; empty where ncu has written none."""
    return log.read_text(errors="replace") if log.exists() else ""


def knows_gpu(tool: Tool) -> bool | None:
    """Return whether ncu supports the chip of this machine's first GPU; None where ncu or the driver does not say."""
    chip = CHIPS.get(compute_capability() or "")
    chips = _CHIP.findall((output([str(tool.path), "--list-chips"]) or "").lower())
    return any(known.startswith(chip) for known in chips) if chip and chips else None
