# SPDX-License-Identifier: Apache-2.0
"""Colours, computed: every plugin and every stage has its own, the same on every page.

Hues are spread evenly over the circle of OKLCH, alternating between dark, light and medium. ``auto`` has the orange
that they leave free.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.ranges import EXPERTS

AUTO = "#d55e00"
LIGHTNESS = (0.45, 0.78, 0.6)  # in OKLCH, used in turn
OF_MANY = (0.42, 0.6, 0.76, 0.5, 0.68)  # the same for plugins, which are so many that neighbours differ little in hue
STEP = 0.57  # of the hues, from a plugin to the next; a test computes how much any two differ
# Pages draw these together, so they come first: no further plugin changes their colours.
OURS, THEIRS = ("fused_moe", "grouped", "hopper"), ("vllm_triton", "sglang_triton", "triton_kernels")
OFTEN = (*OURS, *THEIRS, "torch_grouped", "deep_gemm")
CHROMA, FIRST, SPAN = 0.12, 75.0, 300.0  # hues in degrees; AUTO has 45
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "hexagon", "bowtie")
GREYS = {"norm": 0.85, "other": 0.49, "rest of mlp": 0.58, "rest of layer": 0.78}
# In this order, stages that appear side by side also differ for the colour-blind; a test computes the distances.
_ORDER = ("align", "combine", "router", "quant", "dispatch", "self_attn", "act", "w13", "shared_experts", "w2")


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """Return ``#rrggbb`` of a colour in OKLCH, clipped to sRGB; ``hue`` in degrees."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    # The matrices that define OKLab, from it to linear sRGB (B. Ottosson, 2020).
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short
    cut = [min(1.0, max(0.0, v)) for v in (red, green, blue)]
    # The transfer curve of sRGB (IEC 61966-2-1).
    srgb = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in cut]
    return "#" + "".join(f"{round(255 * v):02x}" for v in srgb)


def nth(i: int, count: int = 6) -> str:
    """Return the ``i``-th of ``count`` colours; after the last one they start again."""
    return oklch(LIGHTNESS[i % count % len(LIGHTNESS)], CHROMA, FIRST + SPAN * (i % count) / count)


def tints(i: int, count: int) -> list[tuple[str, str]]:
    """Return a pale and a strong tint of the ``i``-th of ``count`` hues, each as it is on light and on dark paper.

    Dark text can be read on those of light paper, light text on those of dark paper; the pale one is near the paper.
    """
    hue = FIRST + SPAN * (i % count) / count
    return [(oklch(0.96, 0.02, hue), oklch(0.29, 0.035, hue)), (oklch(0.8, 0.11, hue), oklch(0.48, 0.09, hue))]


def series(names: Sequence[Any]) -> dict[Any, str]:
    """Return a colour for each name, by its position."""
    return {name: nth(i, len(names)) for i, name in enumerate(names)}


def of(name: str) -> str:
    """Return the colour of a backend or align algorithm; all releases of a peer have the same."""
    name, every = name.partition("@")[0], _every()
    # The colour of a backend without a plugin depends only on its name, so that it is the same in every run.
    # crc32, because hash() differs from process to process.
    number = every.index(name) if name in every else zlib.crc32(name.encode())
    hue = FIRST + SPAN * (number * STEP % 1)
    return AUTO if name == "auto" else oklch(OF_MANY[number % len(OF_MANY)], CHROMA, hue)


def symbol(name: str) -> str:
    """Return the marker of a backend or align algorithm, for eyes that the colours do not tell apart."""
    name, every = name.partition("@")[0], _every()
    number = every.index(name) + 1 if name in every else zlib.crc32(name.encode())
    return SYMBOLS[0] if name == "auto" else SYMBOLS[number % len(SYMBOLS)]


def number_format(name: str) -> str:
    """Return the colour of a number format."""
    every = plugins.names("formats")
    return nth(every.index(name), len(every)) if name in every else nth(zlib.crc32(name.encode()), 999)


def _every() -> list[str]:
    return [*OFTEN, *sorted({*plugins.names("experts"), *plugins.names("align")} - {"auto", *OFTEN})]


def stage(name: str | None) -> str:
    """Return the colour of a stage: a fused one (``w13+act``) has that of its first part, an unknown one is ``other``.

    The experts as a whole have the colour of w13, which is never shown beside them.
    """
    first = (name or "other").split("+")[0]
    return STAGES.get("w13" if first == EXPERTS else first, STAGES["other"])


STAGES = series(_ORDER) | {name: oklch(grey, 0.012, 260) for name, grey in GREYS.items()}
