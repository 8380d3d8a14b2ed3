"""Tiles as vLLM and SGLang keep them: file names, and JSON of M -> tile.

Both name a file ``E=..,N=..,device_name=..[,dtype=..][,block_shape=[..]].json`` and key it by M as a string; vLLM
writes the list without a space and takes one tile for both GEMMs, SGLang writes it with a space, keeps a folder per
Triton release, and has w2's own tiles in a second file whose name ends in ``_down``.
Sources: vllm/model_executor/layers/fused_moe/fused_moe.py and configs/ of vLLM 0.15,
sglang/srt/layers/moe/fused_moe_triton/fused_moe_triton_config.py and configs/ of SGLang 0.5.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_lab.configs import Point, Sizes, Tuned, parse, text
from moe_lab.errors import UserError

ENGINES = ("vllm", "sglang")
BACKEND = "fused_moe"  # the backend whose kernel has the same meaning of a tile
_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
_ASSUMED = {"GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3}  # Triton's own defaults
_NAME = re.compile(
    r"E=(?P<E>\d+),N=(?P<N>\d+),device_name=(?P<device>[^,]+?)(,dtype=(?P<dtype>\w+?))?"
    r"(,block_shape=\[(?P<shape>[\d, ]+)\])?(,per_channel_quant=True)?(?P<down>_down)?\.json"
)


def file_name(
    engine: str, E: int, N: int, gpu: str, dtype: str, *, block_shape: Sequence[int] | None = None, down: bool = False
) -> str:
    """Return the name under which an engine looks for tiles.

    Args:
        engine: of ``ENGINES``.
        E: experts.
        N: expert intermediate size.
        gpu: the GPU's own name.
        dtype: ``bf16`` and ``fp16`` are left out of the name, ``fp32`` is float32 there; others as they are.
        block_shape: of block-wise quantised weights.
        down: w2's own file; SGLang only.
    """
    device = gpu.replace(" ", "_")
    if engine == "vllm" and "H200" in device.split("_"):
        device = "NVIDIA_H200"
    kind = {"bf16": "", "fp16": "", "fp32": "float32"}.get(dtype, dtype)
    shape = (", " if engine == "sglang" else ",").join(map(str, block_shape or ()))
    name = f"E={E},N={N},device_name={device}{f',dtype={kind}' if kind else ''}"
    return f"{name}{f',block_shape=[{shape}]' if shape else ''}{'_down' if down else ''}.json"


def export(tuned: Tuned, engine: str, out: Path) -> list[Path]:
    """Write an engine's files; return their paths.

    Args:
        tuned: tiles of ``BACKEND``.
        engine: ``vllm``: into ``out``, to be given as $VLLM_TUNED_CONFIG_FOLDER; a point without a tile for both GEMMs
            gives that of w13. ``sglang``: into ``out/configs/triton_<release>``, to be given as $SGLANG_MOE_CONFIG_DIR.
        out: folder.

    Raises:
        UserError: the tiles are of kernels that mean something else by them, or the Triton release is not known.
    """
    if tuned.backend != BACKEND:
        raise UserError(f"Tiles of {tuned.backend} suit only its own kernels; tune {BACKEND} for {engine}.")
    known = tuned.E, tuned.N, tuned.gpu, tuned.dtype
    if engine == "vllm":
        return [_write(out / file_name(engine, *known), {p.M: p.one or p.w13 for p in tuned.points})]
    release = str((tuned.versions or {}).get("triton") or "")
    if not release:
        raise UserError("SGLang keeps tiles by Triton release, and these do not say theirs; tune on this machine.")
    folder = out / "configs" / f"triton_{release.partition('+')[0].replace('.', '_')}"
    return [
        _write(folder / file_name(engine, *known, down=down), {p.M: p.w2 if down else p.w13 for p in tuned.points})
        for down in (False, True)
    ]


def _write(path: Path, tiles: dict[int, Sizes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    known = {str(M): dict(zip(_KEYS, tile, strict=True)) for M, tile in sorted(tiles.items())}
    partial.write_text(json.dumps(known, indent=4) + "\n")
    return partial.replace(path)


def is_theirs(path: Path) -> bool:
    """Return whether a file's name is that of an engine's tiles."""
    return _NAME.fullmatch(path.name) is not None


def load(path: Path, *, K: int, topk: int, dtype: str = "bf16") -> Tuned:
    """Read an engine's file, and the file of w2 beside it where there is one.

    Args:
        path: not the ``_down`` file.
        K: hidden size, which the file does not say.
        topk: experts per token, which it does not say either.
        dtype: where the name leaves it out: ``bf16`` or ``fp16``.

    Raises:
        UserError: the name or the content is not an engine's, or it is for quantised weights.
    """
    named = _NAME.fullmatch(path.name)
    if named is None or named["down"]:
        raise UserError(f"'{path.name}' is not named like a file of vLLM or SGLang (E=..,N=..,device_name=...json).")
    if named["dtype"] not in (None, "float32") or named["shape"]:
        raise UserError(f"'{path.name}' is for quantised weights, which {BACKEND} does not take.")
    w13 = tiles(path)
    beside = path.with_name(f"{path.stem}_down.json")
    w2 = tiles(beside) if beside.is_file() else w13
    points = [Point(M, tile, nearest(w2, M)) for M, tile in w13.items()]
    wrong = [point.M for point in points if point.w13[0] != point.w2[0]]
    if wrong:
        raise UserError(f"'{path.name}' and its _down file differ in BLOCK_SIZE_M at M = {wrong[0]}.")
    release = re.fullmatch(r"triton_(\d+)_(\d+)_(\d+)", path.parent.name)
    return Tuned(
        BACKEND,
        named["device"].replace("_", " "),
        int(named["E"]),
        int(named["N"]),
        K,
        topk,
        "fp32" if named["dtype"] else dtype,
        tuple(points),
        origin=path.name,
        versions={"triton": ".".join(release.groups())} if release else None,
    )


def tiles(path: Path) -> dict[int, Sizes]:
    """Return M -> tile of an engine's file, by M.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        given: dict[str, Any] = json.loads(path.read_text())
        found = {int(M): _sizes(config) for M, config in given.items() if M.isdigit()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path.name}' cannot be read as an engine's tiles ({error}).") from None
    if not found:
        raise UserError(f"'{path.name}' has no tiles.")
    return dict(sorted(found.items()))


def _sizes(config: dict[str, int]) -> Sizes:
    return parse(text([int(config[key]) if key in config else _ASSUMED[key] for key in _KEYS]))


def nearest(found: dict[int, Sizes], M: int) -> Sizes:
    """Return the tile that the engines take for M: of the key at the smallest difference."""
    return found[min(found, key=lambda key: abs(key - M))]
