# SPDX-License-Identifier: Apache-2.0
"""The most that this GPU can do, measured in the same process as the rows that are compared with it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from moe_lab.gpu.bench.clock import copy_seconds, seconds
from moe_lab.gpu.kernels._device import l2_cache_bytes
from moe_lab.gpu.kernels.read import partial_sums, read

SIZE = 8192  # of the square product
SHORT = {"bfloat16": "bf16", "float8_e4m3fn": "fp8"}  # in the names of roofs
COPIED = 1 << 30  # bytes
READ = (1 << 32, 1 << 33)  # bytes: the start and the end of a launch, some 3 us, are 0.2 and 0.1 % of the time
PASSES = 64  # over the cache
# Programs per multiprocessor, words that each reads at once, warps, and whether each program reads a part of its own:
# many small requests or few large ones, side by side or spread over the memory.
PATTERNS = tuple(
    (*shape, chunked)
    for shape in ((4, 8192, 8), (8, 4096, 8), (2, 16384, 16), (16, 2048, 4), (8, 8192, 8))
    for chunked in (False, True)
)


def measure(device: torch.device, dtype: torch.dtype, *others: torch.dtype) -> dict[str, Any]:
    """Measure the roofs of this GPU now.

    The roof of memory or of the cache is the fastest repetition of the best of several patterns. The product is
    repeated for half a second, and the median of the second half counts, which is what the card sustains under its
    power cap; short kernels may exceed it, up to the fastest repetition.

    Returns:
        copy_bytes_per_s (read plus written), read_bytes_per_s, l2_read_bytes_per_s, matmul_flops_per_s (of ``dtype``,
        if this GPU multiplies it), ``flops_of`` each of ``others``, matmul_size, matmul_dtype, and spread: for each
        rate its slowest and fastest repetition (low, high: in its unit), repetitions, and how it was measured.
    """
    kind = _kind(dtype)
    products = {"matmul_flops_per_s": dtype, **{flops_of(other): other for other in others}}
    times = {name: (_kind(of), _product(device, of)) for name, of in products.items()}
    found = {
        "copy_bytes_per_s": Rate.fastest(2 * COPIED, copy_seconds(device, COPIED, 20), f"copies of {COPIED} bytes"),
        "read_bytes_per_s": _read(device),
        "l2_read_bytes_per_s": _read_cache(device),
    }
    for name, (of, took) in times.items():
        if took:
            found[name] = Rate.sustained(2 * SIZE**3, took, f"{of} products of {SIZE} x {SIZE} x {SIZE}")
    values = {name: rate.value for name, rate in found.items()}
    spread = {name: rate.spread() for name, rate in found.items()}
    return {**values, "matmul_size": SIZE, "matmul_dtype": kind, "spread": spread}


def flops_of(dtype: torch.dtype) -> str:
    """Return what the roof of products in a further dtype is called."""
    kind = _kind(dtype)
    return f"{SHORT.get(kind, kind)}_flops_per_s"


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Rate:
    """A measured roof.

    Attributes:
        value: the roof in bytes or FLOPs per second.
        low: of the slowest repetition.
        high: of the fastest.
        repetitions: number of repetitions.
        how: what was repeated.
    """

    value: int
    low: int
    high: int
    repetitions: int
    how: str

    @classmethod
    def fastest(cls, amount: int, times: Sequence[float], how: str) -> "Rate":
        """Return the rate of the shortest of several times in seconds, each for ``amount`` bytes or FLOPs."""
        rates = sorted(round(amount / t) for t in times)
        return cls(rates[-1], rates[0], rates[-1], len(rates), how)

    @classmethod
    def sustained(cls, amount: int, times: Sequence[float], how: str) -> "Rate":
        """Return the rate of the median of the second half of times in seconds; low and high are those of all times."""
        later = times[len(times) // 2 :]
        rates = sorted(round(amount / t) for t in times)
        return cls(round(amount / median(later)), rates[0], rates[-1], len(times), how)

    def spread(self) -> dict[str, Any]:
        """Return all fields but the value."""
        return {key: value for key, value in asdict(self).items() if key != "value"}


def _read(device: torch.device) -> Rate:
    """Return the rate of reading memory many times as large as the cache: the best of ``PATTERNS`` and two sizes."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 4 * max(READ)
    memory = torch.randint(0, 99, (min(max(READ), free // 4) // 4,), dtype=torch.int32, device=device)
    return _best((memory[: size // 4] for size in READ), 1, "")


def _read_cache(device: torch.device) -> Rate:
    """Return the rate of reading what is in the L2 cache again and again: the best of ``PATTERNS`` and two sizes."""
    # A quarter and an eighth of the cache, as each of its halves may hold a copy (NVIDIA's A100 and later).
    memory = torch.randint(0, 99, (l2_cache_bytes(device) // 4 // 4,), dtype=torch.int32, device=device)
    return _best((memory[: memory.numel() // part] for part in (1, 2)), PASSES, " in the L2 cache")


def _best(memories: Iterable[torch.Tensor], passes: int, where: str) -> Rate:
    rates = [_reading(memory, passes, pattern, where) for memory in memories for pattern in PATTERNS]
    return max(rates, key=lambda rate: rate.value)


def _reading(memory: torch.Tensor, passes: int, pattern: tuple[int, int, int, bool], where: str) -> Rate:
    each, block, num_warps, chunked = pattern
    sums, size = partial_sums(memory.device, each), 4 * memory.numel()

    def once() -> None:
        read(memory, sums, passes, block=block, num_warps=num_warps, chunked=chunked)

    once()  # compiles
    threads = f"{each} programs per multiprocessor, {block} words of 4 bytes at once, {num_warps} warps"
    times = f"reads of {size} bytes{where}, {passes} times" if passes > 1 else f"reads of {size} bytes{where}"
    return Rate.fastest(
        passes * size, seconds(once, 20), f"{times}; {threads}{', each its own part' if chunked else ''}"
    )


def _product(device: torch.device, dtype: torch.dtype) -> list[float]:
    """Return the seconds of each product of two square matrices for half a second; empty for e4m3 before SM89."""
    if dtype == torch.float8_e4m3fn and torch.cuda.get_device_capability(device) < (8, 9):
        return []
    a = torch.randn(SIZE, SIZE, device=device, dtype=torch.float32).to(dtype)
    b = torch.randn(SIZE, SIZE, device=device, dtype=torch.float32).to(dtype)
    if dtype == torch.float8_e4m3fn:
        one, b = torch.ones((), device=device), b.t()  # columns of the right factor have to be contiguous

        def multiply() -> None:
            torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    elif dtype == torch.int8:
        b = b.t()

        def multiply() -> None:
            torch._int_mm(a, b)
    else:
        out = torch.empty(SIZE, SIZE, device=device, dtype=dtype)

        def multiply() -> None:
            torch.mm(a, b, out=out)

    first = seconds(multiply, 3)[-1]
    return seconds(multiply, max(4, round(0.5 / first)))
