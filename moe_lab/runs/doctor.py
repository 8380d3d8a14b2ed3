# SPDX-License-Identifier: Apache-2.0
"""What this machine can capture, and what to do about the rest."""

import ctypes
import glob
import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs.capture import ncu, nsys, rocprof_compute, rocprofv3
from moe_lab.runs.capture._facts import driver_version
from moe_lab.runs.capture._ncu_log import NEWER, knows_gpu
from moe_lab.runs.capture._tools import Tool, find_tool, output

PARAMS = Path("/proc/driver/nvidia/params")  # options of the loaded NVIDIA driver


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was looked for.
        found: what is there; None if it is missing.
        costs: what does not work without it; empty if found.
        remedy: how to get it; empty if found.
    """

    name: str
    found: str | None
    costs: str = ""
    remedy: str = ""


def examine() -> list[Check]:
    """Examine this machine, without importing torch or triton and without running anything on the GPU."""
    here = "nothing can be captured here; reports of committed and imported captures still work"
    use = "use a machine with an NVIDIA or AMD GPU, and copy the run folder or report back"
    counters = "no kernel counters on AMD; folders made elsewhere can still be read"
    return [
        _check("GPU", _gpu(), here, use),
        _check("driver", _driver(), "no GPU code runs", "install the GPU vendor's driver"),
        _package("torch", "the layer cannot run, so only foreign commands can be captured"),
        _package("triton", "the fused_moe backend cannot run"),
        _package("cuda-core", "align & sort on NVIDIA takes its Triton kernels: up to 4 times as slow"),
        _package("nvtx", "captures have no ranges, so no stage can be told from another"),
        _nsys(),
        _ncu(),
        _package("ncu-report", "a .ncu-rep can only be read where ncu is installed", "ncu"),
        _amd("rocprof-compute", rocprof_compute.available(), counters, rocprof_compute.HOW_TO_GET),
        _amd("rocprofv3", rocprofv3.available(), "no kernel and range traces on AMD", rocprofv3.HOW_TO_GET),
        _counters(),
    ]


def can_capture(checks: list[Check]) -> list[str]:
    """Return the profilers that work here: those that are there, with a GPU and its driver; ``torch`` is one."""
    found = {check.name for check in checks if check.found}
    tools = ("nsys", "ncu", "torch", "rocprof-compute", "rocprofv3")
    return [tool for tool in tools if tool in found] if {"GPU", "driver"} <= found else []


def _check(name: str, found: str | None, costs: str, remedy: str) -> Check:
    return Check(name, found) if found else Check(name, None, costs, remedy)


def _gpu() -> str | None:
    smi = find_tool("nvidia-smi")
    text = output([str(smi), "--query-gpu=name,memory.total", "--format=csv,noheader"]) if smi else None
    if text and text.strip():
        return "; ".join(line.strip() for line in text.strip().splitlines())
    names = [Path(p).read_text().strip() for p in glob.glob("/sys/class/drm/card*/device/product_name")]
    # Not every AMD card tells its name; /dev/kfd is the compute device of the amdgpu driver.
    return "; ".join(n for n in names if n) or ("AMD GPU" if Path("/dev/kfd").exists() else None)


def _driver() -> str | None:
    version = driver_version()
    if version:
        return f"NVIDIA {version}"
    amd = Path("/sys/module/amdgpu/version")
    return f"amdgpu {amd.read_text().strip()}" if amd.exists() else None


def _package(name: str, costs: str, extra: str = "gpu") -> Check:
    try:
        return Check(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, None, costs, f"pip install 'moe-lab[{extra}]'")


def _amd(name: str, tool: Tool | str, costs: str, remedy: str) -> Check:
    return _check(name, None if isinstance(tool, str) else tool.version or "version unknown", costs, remedy)


def _nsys() -> Check:
    costs = "no timeline captures on NVIDIA, so no layer breakdown of your own runs"
    tool = nsys.available()
    if isinstance(tool, str):
        return Check("nsys", None, costs, nsys.HOW_TO_GET)
    if "nsight-compute" in str(tool.path.resolve()) and not _has_libdw():
        return Check(
            "nsys",
            None,
            f"{costs} (version {tool.version}, bundled with Nsight Compute, lacks libdw)",
            "install libdw1 (elfutils-libs)",
        )
    return Check("nsys", tool.version or "version unknown")


def _ncu() -> Check:
    """Return which ncu there is, and whether it knows the GPU."""
    tool = ncu.available()
    costs = "no kernel counters on NVIDIA"
    if isinstance(tool, str):
        return Check("ncu", None, costs, ncu.HOW_TO_GET)
    version, known = tool.version or "version unknown", knows_gpu(tool)
    if known is False:
        return Check("ncu", None, f"{costs} (version {version} is too old for this GPU)", NEWER)
    return Check("ncu", f"{version}, knows this GPU" if known else version)


def _has_libdw() -> bool:
    """Return whether libdw can be loaded, without which the bundled nsys writes no report."""
    try:
        ctypes.CDLL("libdw.so.1")
    except OSError:
        return False
    return True


def _counters() -> Check:
    """Return whether the driver lets this user read hardware counters (AMD requires no more than /dev/kfd)."""
    name = "hardware counters"
    if not PARAMS.exists():
        usable = os.access("/dev/kfd", os.R_OK | os.W_OK)
        costs, remedy = "ncu and rocprof-compute cannot count", "needs a GPU and its driver"
        return Check(name, "permitted (/dev/kfd is open to you)") if usable else Check(name, None, costs, remedy)
    restricted = re.search(r"RmProfilingAdminOnly:\s*1", PARAMS.read_text())
    if not restricted:
        return Check(name, "permitted for every user")
    if _has_sys_admin():
        return Check(name, "permitted (restricted to administrators, and this process is one)")
    return Check(
        name,
        None,
        "ncu stops with ERR_NVGPUCTRPERM; nothing inside a container can change it",
        "run as root or with CAP_SYS_ADMIN, or give the host's NVIDIA driver the option "
        "NVreg_RestrictProfilingToAdminUsers=0 (in /etc/modprobe.d, then reload the nvidia module or restart)",
    )


def _has_sys_admin() -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found.group(1), 16) >> 21 & 1)  # CAP_SYS_ADMIN is bit 21 of the set
