# SPDX-License-Identifier: Apache-2.0
"""What all readers share: the facts of a report, CUDA's version numbers, short kernel names."""

import re
from typing import Any

from moe_lab.spec.guard import entry

DEPTH = 256  # nesting of template arguments; compilers allow about as much
_TEMPLATE = re.compile(r"<[^<>]*>")


def facts(tool: str, version: str | None = None, **known: Any) -> dict[str, Any]:
    """Return the plain facts of a report (``Launches.meta``); those that are not given are None."""
    unknown = dict.fromkeys(("schema", "gpu", "gpu_count", "graph_mode", "driver", "date", "cuda"))
    return {"tool": {"name": tool, "version": version}, **unknown, **known}


def number(text: Any, within: range) -> int | None:
    """Return a text of digits as an integer; None for anything else and for numbers outside ``within``."""
    try:
        return entry.integer(text, within)
    except ValueError:
        return None


def capability(major: Any, minor: Any) -> str | None:
    """Return ``9.0`` for 9 and 0, None where one is not known."""
    return None if major is None or minor is None else f"{major}.{minor}"


def cuda_version(said: Any) -> str | None:
    """Return ``13.2`` for 13020, which is how CUDA writes versions."""
    return f"{said // 1000}.{said % 1000 // 10}" if type(said) is int and 0 < said < 10**6 else None


def short_name(full: str) -> str:
    """Return a function's name without return type, namespaces, template arguments and parameters.

    ``void at::native::vectorized_elementwise_kernel<4, Add>(int, Add)`` is ``vectorized_elementwise_kernel``; names
    that are not C++ declarations, such as those of Triton kernels, stay as they are.
    """
    # AMD's names end in .kd, the kernel descriptor; the > of -> would be taken for the end of a template.
    text = full.removesuffix(" [clone .kd]").replace("(anonymous namespace)::", "").replace("->", "")
    for _ in range(DEPTH):
        before, text = text, _TEMPLATE.sub("", text)
        if before == text:
            break
    name = text.split("(", 1)[0].strip().rsplit("::", 1)[-1].rsplit(" ", 1)[-1]
    return name or full
