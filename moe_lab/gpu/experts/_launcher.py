# SPDX-License-Identifier: Apache-2.0
"""What the Triton launchers of vLLM and SGLang take: a format as flags, weights in their layout, known arguments."""

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

from moe_lab.gpu.formats import AnyWeights, Quantised
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError

FLAGS = ("use_fp8_w8a8", "use_int8_w8a8", "use_int8_w8a16", "use_int4_w4a16")


@cache
def flags(format: str) -> dict[str, Any]:
    """Return a format as arguments of the launchers."""
    # Cached, because a look-up reads the plugin's source, and every call needs it.
    known = formats.get(format)
    # A group along a row is a block of no rows.
    block = (0, known.weight_block[1]) if known.weight_block and grouped(format) else known.block_shape
    return {
        **{flag: flag == f"use_{known.engine}" for flag in FLAGS},
        "block_shape": list(block) if block else None,
        "per_channel_quant": known.per_channel,
    }


def grouped(format: str) -> bool:
    """Return whether weights are int4 in groups of a row, for which the engines have a kernel of its own."""
    return formats.get(format).engine == "int4_w4a16"


def paired_zeros(w: AnyWeights) -> AnyWeights:
    """Return weights [E, rows, columns] whose zero points are as the engines store them: those of two rows a byte.

    Args:
        w: with ``zeros`` [E, rows, groups] of 0 to 15, which become [E, rows / 2, groups], the even row low; else
            it is returned as it is.
    """
    if not isinstance(w, Quantised) or w.zeros is None:
        return w
    return replace(w, zeros=w.zeros[:, ::2] | w.zeros[:, 1::2] << 4)


def call(function: Any, known: dict[str, Any]) -> Any:
    """Call a function of another project with those of the known arguments that it takes.

    Raises:
        UserError: it needs one that is not known.
    """
    parameters = inspect.signature(function).parameters
    unknown = [n for n, p in parameters.items() if n not in known and p.default is inspect.Parameter.empty]
    if unknown:
        raise UserError(f"{function.__name__} needs {', '.join(unknown)}, which this adapter does not know.")
    return function(**{name: known[name] for name in parameters if name in known})
