# SPDX-License-Identifier: Apache-2.0
"""Range names: one grammar, written by the workload and parsed from its report.

A measured iteration opens ``moe_lab|model=...|phase=...|M=...|backend=...``; inside it ``layers.0`` holds ``self_attn``
and ``mlp``, and ``mlp`` holds one range per stage. A fused stage joins names with ``+``: ``w13+act``. Names use only
``[A-Za-z0-9_.|=+-]`` so that Nsight Compute's filters can select them.
"""

import ast
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

DOMAIN = "moe_lab"
STAGES = ("router", "align", "quant", "dispatch", "w13", "act", "w2", "combine")
EXPERTS = "experts"  # a range around all experts, which may contain stages
# NVTX domains in which libraries mark their own calls; they say nothing about the model.
LIBRARIES = ("CCCL", "NCCL", "NVSHMEM", "cuBLAS", "cuSPARSE", "cuSOLVER", "libcudf", "raft")
Mark = Callable[[str], AbstractContextManager[Any]]

_ALLOWED = re.compile(r"[A-Za-z0-9_.|=+-]+")
_TORCH = re.compile(r", (?:seq|op_id|sizes|input_op_ids) = .*", re.DOTALL)


def root_name(**fields: str | int) -> str:
    """Return the name of a measured iteration, for example ``root_name(model="mixtral-8x7b", phase="decode", M=16)``.

    Raises:
        ValueError: a key or value has a character outside ``[A-Za-z0-9_.+-]``.
    """
    name = "|".join([DOMAIN, *(f"{key}={value}" for key, value in fields.items())])
    if not _ALLOWED.fullmatch(name) or any(c in str(v) for v in fields.values() for c in "|="):
        raise ValueError(f"range name {name!r} has a character outside [A-Za-z0-9_.+-]")
    return name


def parse_root(name: str) -> dict[str, str] | None:
    """Return the fields of a ``root_name``, as strings, or None for any other name."""
    head, *fields = name.split("|")
    if head != DOMAIN or not fields or not all("=" in f for f in fields):
        return None
    return dict(f.split("=", 1) for f in fields)


def stages_of(name: str) -> tuple[str, ...]:
    """Return the stages in a range name: ``("w13", "act")`` for ``w13+act``, ``()`` for a name that is not a stage."""
    parts = tuple(name.split("+"))
    return parts if all(p in STAGES for p in parts) else ()


def short_name(name: str) -> str:
    """Return the last part of a module path: ``model.layers.0.mlp`` -> ``mlp``; ``layers.N`` stays as it is."""
    found = re.search(r"(layers\.\d+|[^.]+)$", name)
    return found.group(1) if found else name


def stage_of(name: str) -> str | None:
    """Return what a range or module is in a layer, or None.

    That is its stages, ``self_attn``, ``shared_experts`` or ``norm``; for modules that are no more specific, ``router``
    (called ``gate`` or ``topk``) or ``experts`` (everything from dispatch to combine).
    """
    if "::" in name:  # an operator such as aten::layer_norm says what a kernel computes, not where it belongs
        return None
    short = short_name(name)
    if stages_of(short) or short in ("self_attn", "shared_experts", EXPERTS):
        return short
    if short in ("gate", "topk"):
        return "router"
    return "norm" if short.endswith("norm") else None


def is_library(name: str) -> bool:
    """Return whether a range is one that CUB or Thrust opens around each call (``cub::DeviceRadixSort::SortKeys``)."""
    return name.startswith(("cub::", "thrust::"))


def display_name(name: str) -> str:
    """Return a range name for display: the module path of SGLang's and vLLM's layer-wise markers, others as they are.

    Those markers are dict-like strings such as ``{'Module': 'model.layers.0.mlp', 'Inputs': ...}``. Names that
    ``torch.autograd.profiler.emit_nvtx`` makes (``aten::mm, op_id = 7``) lose the numbers of the single call.
    """
    if not name.startswith("{"):
        return _TORCH.sub("", name)  # calls of one operator must have one name, or they would not be summed
    try:
        fields = ast.literal_eval(name)
        return str(fields.get("Module") or fields.get("module") or name)
    except (ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        # Tools cut long names off, and then the string is no longer a Python literal.
        found = re.search(r"""['"][Mm]odule['"]\s*:\s*['"]([^'"]+)""", name)
        return found.group(1) if found else name


def marker(api: str) -> Mark:
    """Return ``mark(name)``, a context manager that opens a range.

    Args:
        api: ``nvtx`` (the nvtx package, domain ``moe_lab``), ``roctx`` (torch's binding on ROCm builds), ``torch``
            (``record_function``, for torch.profiler) or ``none``.

    Raises:
        ValueError: an unknown api.
    """
    if api == "none":
        return lambda name: nullcontext()
    if api == "nvtx":
        import nvtx

        domain = nvtx.get_domain(DOMAIN)
        return _mark(domain.push_range, domain.pop_range, lambda name: domain.get_event_attributes(message=name))
    if api == "roctx":
        from torch.cuda import nvtx as roctx

        return _mark(roctx.range_push, roctx.range_pop, lambda name: name)
    if api == "torch":
        from torch.profiler import record_function

        return record_function
    raise ValueError(f"unknown range api {api!r}: choose nvtx, roctx, torch or none")


def _mark(push: Callable[[Any], Any], pop: Callable[[], Any], message: Callable[[str], Any]) -> Mark:
    """Return a ``mark`` that makes the range of each name once and opens it again: 0.2 us if no profiler listens."""

    class Range(AbstractContextManager[None]):
        __slots__ = ("message",)

        def __init__(self, name: str) -> None:
            self.message = message(name)

        def __enter__(self) -> None:
            push(self.message)

        def __exit__(self, *failure: object) -> None:
            pop()

    return cache(Range)
