# SPDX-License-Identifier: Apache-2.0
"""Tiles as vLLM and SGLang store them: file names, and JSON of M -> tile.

Both name a file ``E=..,N=..,device_name=..[,dtype=..][,block_shape=[..]].json`` and key it by M as a string. vLLM
writes the list without a space and takes one tile for both GEMMs; SGLang writes it with a space, adds
``,per_channel_quant=True`` if weights have a scale per row, has a folder per Triton release, and keeps w2's own tiles
in a second file whose name ends in ``_down``.
Sources: vllm/model_executor/layers/fused_moe/fused_moe.py and configs/ of vLLM 0.15,
sglang/srt/layers/moe/fused_moe_triton/fused_moe_triton_config.py and configs/ of SGLang 0.5.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from moe_lab.spec import formats, plugins
from moe_lab.spec.configs import Point, Sizes, Tuned, form, save
from moe_lab.spec.configs.tile import AMD_FIELDS, AMD_OWN, checked
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import below, decode_json, one_line, read_bytes, unreadable

T = TypeVar("T")
Config = tuple[Sizes, dict[str, form.Value]]  # a tile, and what else an engine says of it
ENGINES = ("vllm", "sglang")
BACKEND = "fused_moe"  # the backend whose kernel uses a tile as the engines' kernels do
_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
_ASSUMED = {"GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3}  # Triton's own defaults
# What SGLang's and vLLM's launchers take beyond the six numbers of a tile, with the value that has no effect.
_NEUTRAL: dict[str, form.Value] = {"SPLIT_K": 1, "USE_TMA": False}
_ONLY = {"SPLIT_K": "vllm", "USE_TMA": "sglang"}  # the other's kernel has no such argument
# The dtypes of files that an engine looks for, by _get_config_dtype_str of vLLM 0.33 and SGLang 0.5.
_BOTH = ("", "float32", "fp8_w8a8", "int8_w8a16", "int4_w4a16")
_LOOKED_FOR = {"vllm": _BOTH, "sglang": (*_BOTH, "int8_w8a8")}
_NAME = re.compile(
    r"E=(?P<E>[0-9]{1,9}),N=(?P<N>[0-9]{1,9}),device_name=(?P<device>[^,]*?)(,dtype=(?P<dtype>\w+?))?"
    r"(,block_shape=\[(?P<shape>[\d, ]+)\])?(?P<channel>,per_channel_quant=True)?(?P<down>_down)?\.json"
)
_OTHERS = re.compile(r"(moe_sum_reduce_|.*\bdevice_name=).*\.json", re.DOTALL)  # tuned, perhaps for other kernels


def file_name(engine: str, E: int, N: int, gpu: str, format: str, *, down: bool = False) -> str:
    """Return the name under which an engine looks for tiles.

    Args:
        engine: of ``ENGINES``.
        E: experts.
        N: expert intermediate size.
        gpu: the GPU's own name.
        format: number format; ``bf16`` and ``fp16`` are left out of the name.
        down: whether it is w2's own file; SGLang only.
    """
    device = gpu.replace(" ", "_")
    # vLLM uses one name for every variant of the H200.
    if engine == "vllm" and "H200" in device.split("_"):
        device = "NVIDIA_H200"
    known = formats.get(format)
    shape = (", " if engine == "sglang" else ",").join(map(str, known.block_shape or ()))
    channel = ",per_channel_quant=True" if engine == "sglang" and known.per_channel else ""
    name = f"E={E},N={N},device_name={device}{f',dtype={known.engine}' if known.engine else ''}"
    return f"{name}{f',block_shape=[{shape}]' if shape else ''}{channel}{'_down' if down else ''}.json"


def export(tuned: Tuned, engine: str, out: Path) -> list[Path]:
    """Write an engine's files; return their paths.

    Args:
        tuned: tiles of ``BACKEND``.
        engine: ``vllm`` writes into ``out``, for $VLLM_TUNED_CONFIG_FOLDER; a point without a tile for both GEMMs gives
            that of w13. ``sglang`` writes into ``out/configs/triton_<release>``, for ``out`` as $SGLANG_MOE_CONFIG_DIR.
        out: folder.

    Raises:
        UserError: the tiles are for kernels that use them differently, or the Triton release is not known.
    """
    if tuned.backend != BACKEND:
        raise UserError(f"Tiles of {tuned.backend} suit only its own kernels; tune {BACKEND} for {engine}.")
    known = tuned.E, tuned.N, tuned.gpu, tuned.format
    if engine == "vllm":
        parts = {p.M: (p.one, {}) if p.one else (p.w13, p.theirs.get("w13", {})) for p in tuned.points}
        return [_write(below(out, out / file_name(engine, *known)), parts, engine, tuned.theirs)]
    release = str((tuned.versions or {}).get("triton") or "").partition("+")[0]
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}", release):
        raise UserError("SGLang stores tiles by Triton release, which these do not state; tune on this machine.")
    folder = out / "configs" / f"triton_{release.replace('.', '_')}"
    return [
        _write(
            below(out, folder / file_name(engine, *known, down=part == "w2")),
            {p.M: (getattr(p, part), p.theirs.get(part, {})) for p in tuned.points},
            engine,
            tuned.theirs,
        )
        for part in ("w13", "w2")
    ]


def left_out(tuned: Tuned, engine: str) -> list[str]:
    """Return sentences on what the engine will not have of an ``export``: keys, or a file that it does not look for."""
    lost = [key for key in _more(tuned) if _ONLY.get(key, engine) != engine]
    said = [f"{key} is left out: the kernel of {engine} has no such argument." for key in lost]
    if formats.get(tuned.format).engine not in _LOOKED_FOR[engine]:
        said.append(f"{engine} looks for no tiles of {tuned.format}: it will not load the file.")
    return said


def notes(tuned: Tuned) -> list[str]:
    """Return sentences on what an engine's file asks for that our kernels do not do."""
    asked = [f"{key} {' and '.join(map(str, values))}" for key, values in _more(tuned).items()]
    said = "our kernels have no such option, so the tiles may be slower here than there; an export keeps it"
    return [f"The file asks for {', '.join(asked)}: {said}."] if asked else []


def _more(tuned: Tuned) -> dict[str, list[form.Value]]:
    """Return key -> values, sorted by key, of what an engine's file says beyond six numbers and that has an effect."""
    found: dict[str, list[form.Value]] = {}
    for keys in (keys for point in tuned.points for keys in point.theirs.values()):
        for key, value in keys.items():
            # Those of AMD are in the tile.
            if key not in AMD_FIELDS and (key not in _NEUTRAL or value != _NEUTRAL[key]):
                found[key] = [*dict.fromkeys([*found.get(key, []), value])]
    return dict(sorted(found.items()))


def _write(path: Path, tiles: Mapping[int, tuple[Sizes, Any]], engine: str, head: Mapping[str, form.Value]) -> Path:
    known: dict[str, Any] = dict(head)
    for M, (tile, more) in sorted(tiles.items()):
        kept = {key: value for key, value in more.items() if _ONLY.get(key, engine) == engine}
        known[str(M)] = dict(zip((*_KEYS, *AMD_FIELDS), tile, strict=False)) | kept
    return save(known, path, indent=4)


def is_theirs(path: Path) -> bool:
    """Return whether a file is named like an engine's tuned file, for any kernel."""
    return _OTHERS.fullmatch(path.name) is not None


def named(path: Path) -> "re.Match[str]":
    """Return the parts of an engine's file name, E, N, device and dtype; UserError if our kernels cannot use it."""
    found, name = _NAME.fullmatch(path.name), one_line(path.name, 120)
    if found is None:
        raise UserError(
            f"'{name}' holds no tiles for the experts' GEMMs; give a file named E=..,N=..,device_name=...json."
        )
    if not meant(found):
        kind = found["dtype"] or "in blocks or channels"
        raise UserError(f"'{name}' is for quantised weights ({kind}), which {BACKEND} does not take.")
    if found["down"]:
        whole = one_line(path.name.replace("_down.json", ".json"), 120)
        raise UserError(f"'{name}' has only the tiles of w2; give '{whole}', the file without _down, beside it.")
    if not found["device"]:
        raise UserError(f"'{name}' does not name its GPU; write its name after device_name=, as the engine does.")
    return found


def meant(name: "re.Match[str]") -> list[str]:
    """Return the formats that a file's name (``named``) may mean, among those that ``BACKEND`` takes."""
    shape = tuple(int(part) for part in (name["shape"] or "").split(",") if part.strip())
    found = formats.of_engine(name["dtype"] or "", shape or None, bool(name["channel"]))
    return [format for format in found if formats.get(format).among(plugins.info("experts", BACKEND)["formats"])]


def load(path: Path, *, K: int, topk: int, format: str = "") -> Tuned:
    """Read an engine's file, and the file of w2 beside it if there is one.

    Args:
        path: not the ``_down`` file.
        K: hidden size, which the file does not state.
        topk: experts per token, which it does not state either.
        format: of those that the name may mean; empty = the first.

    Raises:
        UserError: the name or the content is not an engine's, or it is for quantised weights that we cannot use, or
            for others than of that format.
    """
    name = named(path)
    if format and format not in (known := meant(name)):
        raise UserError(f"The file is for {' or '.join(known)}, not for {format}.")
    w13, head = given(path)
    beside = path.with_name(f"{path.stem}_down.json")
    w2 = given(beside)[0] if beside.is_file() else w13
    # vLLM states the Triton release in the file, SGLang by the folder.
    triton = head.get("triton_version") or ".".join(map(str, triton_release(path)))
    sizes: dict[str, Any] = {"E": int(name["E"]), "N": int(name["N"]), "K": K, "topk": topk}
    sizes["format"] = format or meant(name)[0]
    try:
        points = tuple(_point(M, first, nearest(w2, M)) for M, first in w13.items())
        gpu, versions = name["device"].replace("_", " "), {"triton": str(triton)} if triton else None
        return Tuned(BACKEND, gpu, **sizes, points=points, origin=path.name, versions=versions, theirs=head)
    except ValueError as error:
        raise unreadable(path, "an engine's tiles", error, "take the file as the engine ships it") from None


def triton_release(path: Path) -> tuple[int, ...]:
    """Return the Triton release in the name of a file's folder, as SGLang keeps files; () for any other folder."""
    found = re.fullmatch(r"triton_(\d+)_(\d+)_(\d+)", path.parent.name)
    return tuple(map(int, found.groups())) if found else ()


def _point(M: int, w13: Config, w2: Config) -> Point:
    if w13[0][0] != w2[0][0]:
        raise ValueError(f"it and the _down file differ in BLOCK_SIZE_M at M = {M}")
    more = {part: config[1] for part, config in (("w13", w13), ("w2", w2)) if config[1]}
    return Point(M, _with_amd(*w13), _with_amd(*w2), theirs=more)


def _with_amd(tile: Sizes, more: Mapping[str, form.Value]) -> Sizes:
    """Return a tile with the options for AMD that an engine's file says of it."""
    return checked([*tile, *(more.get(key, own) for key, own in zip(AMD_FIELDS, AMD_OWN, strict=True))])


def given(path: Path) -> tuple[dict[int, Config], dict[str, form.Value]]:
    """Return an engine's file as M -> (tile, its other keys), sorted by M, and the file's own other keys; or UserError.

    The file has them all on one level: M -> tile, and keys such as triton_version.
    """
    try:
        content: dict[str, Any] = decode_json(read_bytes(path), dict[str, dict[str, form.Value] | form.Value])
        configs = {key: value for key, value in content.items() if isinstance(value, dict)}
        if not any("BLOCK_SIZE_M" in config for config in configs.values()):
            raise ValueError("it holds no tiles for the experts' GEMMs")
        found = {M: _split(config) for M, config in form.by_m(configs).items()}
    except ValueError as error:
        raise unreadable(path, "an engine's tiles", error, "take the file as the engine ships it") from None
    return found, {key: value for key, value in content.items() if key not in configs}


def _split(config: dict[str, form.Value]) -> Config:
    """Return the tile, and the keys beyond its six."""
    # Files leave out what is Triton's default.
    tile = [config.get(key, _ASSUMED.get(key)) for key in _KEYS]
    return checked(tile), {key: value for key, value in config.items() if key not in _KEYS}


def tiles(path: Path) -> dict[int, Sizes]:
    """Return M -> tile of an engine's file, sorted by M; raises as ``given``."""
    return {M: tile for M, (tile, _) in given(path)[0].items()}


def nearest(found: Mapping[int, T], M: int) -> T:
    """Return what the engines take for M: the entry whose key differs least, not by ratio as ours."""
    return found[min(found, key=lambda key: abs(key - M))]


def theirs(path: Path, M: int) -> dict[str, Any]:
    """Return the arguments of an engine's launcher for M, as its file states them; raises as ``given``."""
    tile, more = nearest(given(path)[0], M)
    return dict(zip(_KEYS, tile, strict=True)) | more
