# SPDX-License-Identifier: Apache-2.0
"""SASS of compiled kernels, listed by the tools in Triton's wheel and kept in Triton's cache."""

import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

import triton
from triton.runtime.cache import get_cache_manager

from moe_lab.spec.errors import UserError

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LISTING_S = 60


def sass(cubin: bytes, key: str, kernel: str = "") -> str:
    """Return what cuobjdump and nvdisasm print of a cubin, as ``moe_lab.runs.assembly.sass`` reads it.

    Args:
        cubin: machine code.
        key: of the cubin in Triton's cache.
        kernel: the one to list; empty for a cubin that has only one.

    Raises:
        UserError: the code cannot be listed.
    """
    kept, name = get_cache_manager(key), f"{kernel or 'kernel'}.lines.sass"
    if found := kept.get_file(name):
        return Path(found).read_text()
    only = ["-fun", kernel] if kernel else []
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = _listed("cuobjdump", "-res-usage", "-sass", *only, file.name)
        listing += _section(_listed("nvdisasm", "-gi", "-c", file.name), kernel)  # which alone tells the lines
    kept.put(listing, name, binary=False)
    return listing


def _section(listing: str, kernel: str) -> str:
    """Return the part of what nvdisasm prints that is about one kernel."""
    _, start, after = listing.partition(f"//--------------------- .text.{kernel}")
    return start + after.partition("\n//---------------------")[0] if kernel else listing


def _listed(tool: str, *options: str) -> str:
    done = subprocess.run([str(TOOLS / tool), *options], capture_output=True, text=True, timeout=LISTING_S)
    if done.returncode:
        raise UserError(f"The code cannot be listed: {tool} of Triton's wheel failed with code {done.returncode}.")
    return done.stdout
