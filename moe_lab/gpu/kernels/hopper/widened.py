# SPDX-License-Identifier: Apache-2.0
"""Which weights the kernel widens to bf16 in registers: those of four and of eight bits."""

from moe_lab.gpu.kernels.hopper import eight_bits, four_bits


def widened(format: str) -> bool:
    """Return whether a format's weights are widened."""
    return format in eight_bits.FORMATS or four_bits.widened(format)


def unit_bytes(format: str) -> int:
    """Return the bytes of a unit and step of 128 rows by 128 weights."""
    return eight_bits.UNIT_BYTES if format in eight_bits.FORMATS else four_bits.unit_bytes(format)


def macros(format: str) -> tuple[tuple[str, str | int], ...]:
    """Return WIDEN, GROUP and INTEGERS, which say to the kernel how weights are stored, and activations with them."""
    stored = (("WIDEN", "INT8"), ("GROUP", 1)) if format in eight_bits.FORMATS else four_bits.macros(format)
    return *stored, ("INTEGERS", int(format == "int8"))
