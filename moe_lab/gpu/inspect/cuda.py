# SPDX-License-Identifier: Apache-2.0
"""Launches of CUDA C++ kernels, compiled by NVRTC as their launcher would, or by nvcc where NVRTC is not there."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from triton.runtime.cache import get_cache_manager

from moe_lab.gpu.inspect.disassemble import sass
from moe_lab.gpu.kernels import _nvrtc
from moe_lab.spec.errors import UserError

WARP_THREADS = 32
Macros = tuple[tuple[str, int | str], ...]


class Source(NamedTuple):
    """What ``_nvrtc.compiled`` is asked for.

    Attributes:
        file: the .cu file.
        kernel: its name.
        macros: macros to define.
        prelude: source before that of the file.
        architecture: what to compile for, as ``sm_90a``.
    """

    file: Path
    kernel: str
    macros: Macros
    prelude: str
    architecture: str

    @classmethod
    def asked(
        cls, file: Path, kernel: str, device: torch.device, macros: Macros, shared: int, prelude: str = ""
    ) -> "Source":
        """Take the place of ``_nvrtc.compiled``; UserError as it raises."""
        _nvrtc.check(device, shared)
        return cls(file, kernel, macros, prelude, _nvrtc.architecture(device))

    @property
    def text(self) -> str:
        """All that is compiled; lines say the whole path of their file, those of the prelude that it has none."""
        lines = re.compile(r'^#line (\d+) "', re.M)
        text = lines.sub(lambda m: f"{m[0]}{self.file.parent}/", _nvrtc.text_of(self.file))
        return f'#line 1 "/generated/prelude.cuh"\n{self.prelude}{text}'


@dataclass(frozen=True)
class CudaLaunch:
    """One launch of a CUDA C++ kernel.

    Attributes:
        source: what is compiled.
        grid: thread blocks.
        block_threads: threads of a block.
        shared: bytes of dynamic shared memory of a block.
        stage: range around the launch, empty for none.
    """

    source: Source
    grid: tuple[int, ...]
    block_threads: int
    shared: int
    stage: str

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.source.kernel

    def constants(self) -> str:
        """Return the macros that are numbers, and the type of expert ids, as ``name=value``."""
        known = ((name, str(value).replace(" ", "-")) for name, value in self.source.macros)
        return " ".join(f"{name}={value}" for name, value in known if not value.endswith("f"))

    def compiled(self, code: Path) -> dict[str, Any]:
        """Compile it, and list its machine code; as ``TritonLaunch.compiled`` does.

        ``tensor_warps`` is None: which warps multiply is not known.

        Raises:
            UserError: there is no compiler, it fails, or the code cannot be listed.
        """
        release, compile_text = compiler()
        text, (_, kernel, macros, _, architecture) = self.source.text, self.source
        key = hashlib.sha256(repr((release, text, macros, architecture)).encode()).hexdigest()
        kept, file = get_cache_manager(key), "kernel.cubin"
        if not (found := kept.get_file(file)):
            try:
                found = kept.put(compile_text(text, architecture, macros), file)
            except Exception as failure:  # NVRTC's has no class of its own
                raise UserError(f"{release} fails: {_first_error(str(failure))}") from None
        listing = code / f"{key}-{kernel}.txt"
        listing.write_text(sass(Path(found).read_bytes(), key, kernel))
        return {
            "compiler": release,
            "num_warps": self.block_threads // WARP_THREADS,
            "tensor_warps": None,
            "static_smem_bytes": self.shared,
            "listing": listing.name,
        }


@cache
def compiler() -> tuple[str, Callable[[str, str, Macros], bytes]]:
    """Return a compiler's name and release, and what compiles a text; UserError if there is none."""
    if release := _nvrtc_release():
        return f"NVRTC {release}", _by_nvrtc
    home = os.environ.get("CUDA_HOME")
    if nvcc := shutil.which("nvcc") or (home and shutil.which("nvcc", path=f"{home}/bin")):
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release ([\d.]+)", said)
        return f"nvcc {found[1] if found else 'of unknown release'}", partial(_by_nvcc, nvcc)
    raise UserError("CUDA C++ needs a compiler: pip install 'cuda-core[cu13]' for NVRTC, or put nvcc on PATH.")


def _nvrtc_release() -> str | None:
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvrtc

        _, *parts = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):  # the package is not there, or its library
        return None
    return ".".join(map(str, parts))


def _by_nvrtc(text: str, architecture: str, macros: Macros) -> bytes:
    return bytes(_nvrtc.cubin(text, architecture, macros, lines=True).code)


def _by_nvcc(nvcc: str, text: str, architecture: str, macros: Macros) -> bytes:
    defined = [f"-D{name}={value}" for name, value in macros]
    with TemporaryDirectory() as folder:
        made = Path(folder) / "kernel.cubin"
        argv = [nvcc, "-std=c++17", f"-arch={architecture}", "-cubin", "-lineinfo", *defined, "-o", str(made)]
        source = made.with_suffix(".cu")
        source.write_text(text)
        done = subprocess.run([*argv, str(source)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return made.read_bytes()


def _first_error(said: str) -> str:
    """Return the first line of a compiler's output that tells of an error, its file without folders."""
    line = next((line for line in said.splitlines() if "error" in line), "it does not say why")
    return re.sub(r"\S*/", "", line)
