# SPDX-License-Identifier: Apache-2.0
"""Kernels of other projects, read from an installed package or from a released wheel in a cache that git ignores.

A peer is a project whose Python files are enough to run its kernel. They are taken from the installed package of that
name, else from the newest release that ``moe-lab peers add`` unpacked. None of their code is part of this repository.
The cache is $MOE_LAB_PEERS, else ``.peers`` of the checkout, else ``moe_lab/peers`` in the user's cache.
"""

import importlib.metadata
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import NAME_LENGTH, conform, decode_json, read_bytes

MANIFEST = "peer.json"


@dataclass(frozen=True)
class Part:
    """Files of a wheel that serve one purpose.

    Attributes:
        patterns: globs of paths in the wheel.
        defines: regular expression that a file must match at the start of a line; empty for none.
        strip: prefix that is removed from the paths.
        required: whether a release is useless without it.
    """

    patterns: tuple[str, ...]
    defines: str = ""
    strip: str = ""
    required: bool = True


@dataclass(frozen=True)
class Project:
    """A project whose kernels can be read from its files.

    Attributes:
        about: what is read.
        source: address of the project.
        wheel: the package on the index whose wheel has the files.
        parts: name -> files.
        example: an argument for ``moe-lab peers add``.
        licence: of the project, if it is not that of the wheel.
        proof: a file or folder that tells its installed package from another one of that name.
    """

    about: str
    source: str
    wheel: str
    parts: dict[str, Part]
    example: str
    licence: str = ""
    proof: str = ""


_MOE = "vllm/model_executor/layers/fused_moe"
PROJECTS: dict[str, Project] = {
    "vllm": Project(
        "fused_moe_kernel (Triton) with its tuned tiles",
        "https://github.com/vllm-project/vllm",
        "vllm",
        {
            # Releases move and rename the file, so it is found by the function that it defines.
            "kernel": Part((f"{_MOE}/*.py", f"{_MOE}/**/*.py"), r"def invoke_fused_moe(_triton)?_kernel\("),
            "batched": Part((f"{_MOE}/**/*.py",), r"def invoke_moe_batched_triton_kernel\(", required=False),
            "tiles": Part((f"{_MOE}/configs/*.json",)),
        },
        "vllm==0.33.0",
    ),
    "sglang": Project(
        "fused_moe_kernel (Triton) with its tuned tiles",
        "https://github.com/sgl-project/sglang",
        "sglang",
        {
            "kernel": Part(
                ("sglang/kernels/ops/moe/*.py", "sglang/srt/layers/moe/**/*.py"), r"def invoke_fused_moe_kernel\("
            ),
            "defaults": Part(("sglang/srt/layers/moe/**/*.py",), r"def get_default_config\("),
            "tiles": Part(("sglang/srt/layers/moe/**/configs/*/*.json",)),
        },
        "sglang==0.5.23",
    ),
    "triton_kernels": Project(
        "matmul_ogs (Triton), as vLLM's wheel carries it",
        "https://github.com/triton-lang/triton/tree/main/python/triton_kernels",
        "vllm",
        {"package": Part(("vllm/third_party/triton_kernels/**/*.py",), strip="vllm/third_party/")},
        "vllm==0.15.0",
        "MIT",
        "matmul_ogs.py",
    ),
    "deep_gemm": Project(
        "DeepGEMM (CUDA, compiled by nvcc when it first runs), as vLLM's wheel carries it",
        "https://github.com/deepseek-ai/DeepGEMM",
        "vllm",
        {"package": Part(("vllm/third_party/deep_gemm/**/*",), strip="vllm/third_party/")},
        "vllm==0.33.0",
        "MIT",
        "include/deep_gemm",
    ),
    "marlin": Project(
        "Marlin's grouped GEMM (CUDA), in the compiled library of vLLM's wheel",
        "https://github.com/vllm-project/vllm",
        "vllm",
        {"library": Part(("vllm/_moe_C_stable_libtorch*.so",), strip="vllm/")},
        *("vllm==0.33.0", "", "_moe_C_stable_libtorch.abi3.so"),
    ),
    "cutlass_fp8": Project(
        "CUTLASS grouped GEMM in fp8, in the largest compiled library of vLLM's wheel",
        "https://github.com/vllm-project/vllm",
        "vllm",
        {"library": Part(("vllm/_C_stable_libtorch*.so",), strip="vllm/")},
        *("vllm==0.33.0", "", "_C_stable_libtorch.abi3.so"),
    ),
    "sgl_deep_gemm": Project(
        "SGLang's DeepGEMM with its mega MoE for SM90 (CUDA, compiled by nvcc when it first runs)",
        "https://github.com/sgl-project/DeepGEMM",
        "sgl_deep_gemm",
        {"package": Part(("deep_gemm/**/*",))},
        "sgl-deep-gemm==0.1.4",
    ),
}


class _Facts(msgspec.Struct):
    """The fields of ``peer.json`` that are read."""

    project: str
    version: Annotated[str, msgspec.Meta(max_length=NAME_LENGTH)]
    files: dict[str, str]
    licence: str | None


@dataclass(frozen=True)
class Peer:
    """One release of a project on this machine.

    Attributes:
        project: key of ``PROJECTS``.
        version: of the release; for files from another project's wheel, ``<wheel>-<version>``.
        root: folder that the paths of the files are relative to.
        origin: ``installed`` or ``wheel``.
        facts: what ``peer.json`` says: wheel, its sha256, licence, files; empty for an installed package.
    """

    project: str
    version: str
    root: Path
    origin: str
    facts: dict[str, Any]

    def files(self, part: str) -> list[Path]:
        """Return the files of a part, sorted; empty if the release has none."""
        known = PROJECTS[self.project].parts[part]
        paths = {path for pattern in known.patterns for path in self.root.glob(pattern.removeprefix(known.strip))}
        files = (path for path in paths if path.is_file())  # only those of a part that defines something are text
        return sorted(path for path in files if not known.defines or fits(path.read_text("utf-8"), known))

    def file(self, part: str) -> Path:
        """Return the first file of a part; UserError if the project has moved it."""
        found = self.files(part)
        if not found:
            raise UserError(
                f"{self.project} {self.version} has no file with its {part} where moe_lab looks; use another release: "
                f"moe-lab peers add {PROJECTS[self.project].example}."
            )
        return found[0]


def fits(text: str, part: Part) -> bool:
    """Return whether a file with that text defines what the part says."""
    return re.search(rf"^{part.defines}", text, re.MULTILINE) is not None


def cache() -> Path:
    """Return the folder of unpacked wheels; it need not exist."""
    named = os.environ.get("MOE_LAB_PEERS")
    if named:
        return Path(named)
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe_lab" / "peers"


def cached(project: str | None = None) -> list[Peer]:
    """Return the unpacked releases, of all projects or one, the newest first; unreadable ones are left out."""
    peers = []
    for manifest in cache().glob(f"{project or '*'}/*/{MANIFEST}"):
        try:
            facts: dict[str, Any] = decode_json(read_bytes(manifest), dict[str, Any])
            conform(facts, _Facts)
        except ValueError:
            continue  # damaged, or not a release of ours; `peers add` writes it again
        if facts["project"] in PROJECTS:
            peers.append(Peer(facts["project"], facts["version"], manifest.parent, "wheel", facts))
    return sorted(peers, key=lambda peer: (peer.project, _order(peer.version)), reverse=True)


def _order(version: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts versions by their numbers: 0.10 after 0.9, and 1.0rc1 before 1.0."""
    numbers = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[a-z]+", version)]
    return [*numbers, (1, -1, "")]  # an end mark that sorts after letters and before any number


def installed(project: str) -> Peer | None:
    """Return the installed package of that name, without importing it; None if it lacks the files."""
    try:
        spec = find_spec(project)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    known = PROJECTS[project]
    if not places or not (Path(places[0]) / known.proof).exists():
        return None
    try:
        version = importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return Peer(project, version, Path(places[0]).parent, "installed", {})


def find(project: str, version: str | None = None) -> Peer | None:
    """Return the release of a version; without one, the installed package, else the newest release in the cache."""
    here = installed(project)
    if here and version in (None, here.version):
        return here
    return next((peer for peer in cached(project) if version in (None, peer.version)), None)


def get(project: str, version: str | None = None) -> Peer:
    """Return a release as ``find`` does, or raise UserError."""
    found = find(project, version)
    if found is None:
        known = PROJECTS[project]
        wanted = f"{known.wheel}=={version.removeprefix(known.wheel + '-')}" if version else known.example
        raise UserError(
            f"{project}{' ' + version if version else ''} is neither installed nor unpacked here: "
            f"moe-lab peers add {wanted}."
        )
    return found
