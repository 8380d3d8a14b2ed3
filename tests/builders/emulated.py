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


def launch(source, name, grid, block, *arguments, macros):
    """Run a kernel as the rank of its macros; see ``_nvrtc.launch``."""
    given = dict(macros)
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    words = (ctypes.c_uint64 * len(values))(*values)
    rank = given.pop("RANK")
    with ONE_COMPILES:
        kernels = library(source, tuple(given.items()))
    getattr(kernels, f"run_{name}")(rank, grid, block, words)


@functools.cache
def library(source, macros):
    """Compile the kernels of a file, without its headers of instructions that a CPU does not have."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    text = re.sub(r'^#include ".*"$', "", source.read_text(), flags=re.M).replace('extern "C" ', "")
    text = re.sub(r"#pragma unroll\n", "", text)
    kernels = re.findall(r"__global__ void .*? (\w+)\(\n", text)
    text = "\n".join([f'#include "{HEADER}"', text, *(f"KERNEL({kernel})" for kernel in kernels)])
    defined = [f"-D{key}={value}" for key, value in (*macros, ("RANK", "the_rank"))]
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernels.so"
        options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(built), *defined]
        subprocess.run([compiler, *options], input=text, text=True, check=True)
        return ctypes.CDLL(str(built))
