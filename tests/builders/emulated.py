"""Kernels of CUDA C++ on the CPU, compiled by the system's C++ compiler; see ``cuda.h``."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from torch import Tensor

HEADER = Path(__file__).with_name("cuda.h")
ONE_COMPILES = threading.Lock()


def launch(source, name, grid, block, *arguments, macros, cooperative=False, **how):
    """Run a kernel as the rank of its macros, if it has one; see ``_nvrtc.launch``."""
    given = dict(macros)
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    words = (ctypes.c_uint64 * len(values))(*values)
    rank = given.pop("RANK", 0)
    with ONE_COMPILES:
        kernels = library(source, tuple(given.items()))
    getattr(kernels, f"run_{name}")(rank, grid, block, cooperative, words)


def header(source, name):
    """Return the text of a header, or what stands for it if it has instructions that a CPU does not have."""
    text = (source.parent / name).read_text()
    if "asm" not in text:
        return text
    own = HEADER.with_name(Path(name).with_suffix(".h").name)
    return f'#include "{own}"' if own.exists() else ""  # the others' are in cuda.h


@functools.cache
def library(source, macros):
    """Compile the kernels of a file; ``cuda.h`` stands for its headers of instructions."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    text = re.sub(r'^#include "(.*)"$', lambda found: header(source, found[1]), source.read_text(), flags=re.M)
    text = re.sub(r'extern "C" |#pragma unroll\n|extern __shared__ .*', "", text)  # cuda.h has shared memory
    kernels = re.findall(r"__global__ void .*? (\w+)\(\n", text)
    text = "\n".join([f'#include "{HEADER}"', text, *(f"KERNEL({kernel})" for kernel in kernels)])
    defined = [f"-D{key}={value}" for key, value in (*macros, ("RANK", "the_rank"))]
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernels.so"
        options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(built), *defined]
        subprocess.run([compiler, *options], input=text, text=True, check=True)
        return ctypes.CDLL(str(built))
