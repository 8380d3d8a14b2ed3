import json
import zipfile
from pathlib import Path

KERNEL = """
import vllm.envs as envs
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.secret import true_answer
import vllm.modular as mk

logger = init_logger(__name__)
FAST = current_platform.is_fast() and envs.FAST


@mk.register("x")
def double(x):
    return 2 * x


class Experts(mk.Base):
    def run(self):
        return "ran"


def kernel_of(x: "mk.Key | None"):
    return true_answer(x)


def needs_more(x):
    return current_platform.device(x)


def invoke_fused_moe_kernel(A):
    return A


def get_default_config(M):
    return {}
"""


def wheel(folder: Path, name: str = "vllm", version: str = "1.2", files: dict[str, str] | None = None) -> Path:
    """GIVEN a wheel with those files, a licence, and a compiled extension that nobody needs."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Name: {name}\nVersion: {version}\nLicense-Expression: Apache-2.0\n\n")
        archive.writestr(f"{info}/licenses/LICENSE", "you may")
        archive.writestr(f"{name}/_C.abi3.so", "machine code")
        for inside, text in (FILES if files is None else files).items():
            archive.writestr(inside, text)
    return path


MOE = "vllm/model_executor/layers/fused_moe"
TILES = "E=8,N=32,device_name=CPU,dtype=float32.json"
FILES = {
    f"{MOE}/fused_moe.py": KERNEL,
    f"{MOE}/layer.py": "class Layer: ...",
    f"{MOE}/configs/{TILES}": json.dumps({"4": {"BLOCK_SIZE_M": 16}, "64": {"BLOCK_SIZE_M": 64}}),
    "vllm/third_party/triton_kernels/__init__.py": "",
    "vllm/third_party/triton_kernels/matmul_ogs.py": "from triton_kernels.inner.deep import VALUE\nNAME = __name__\n",
    "vllm/third_party/triton_kernels/inner/deep.py": "VALUE = 7\n",
}
