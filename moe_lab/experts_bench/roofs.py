"""What this GPU can do at most, measured in the same process as the rows that are set against it; and a cold L2 cache.

The cache is made cold by reading four times its size, which leaves lines that need not be written back, so that the
timed kernels do not pay for the flush. Whether it is cold is measured, not assumed: see ``verify_cold``.
"""

from functools import cache
from statistics import median
from typing import Any

import torch

from moe_lab.kernels._device import l2_cache_bytes
from moe_lab.kernels.read import chained, follow, partial_sums, read
from moe_lab.timing import copy_bandwidth

SIZE = 8192  # of the square product
CHAINED = 1024  # reads, each of a line of its own
VERIFIED = 1.3  # cold reads take at least so many times warm ones


class ReadFlush:
    """Makes the L2 cache of a GPU cold by reading other memory."""

    def __init__(self, device: torch.device) -> None:
        size = l2_cache_bytes(device)
        self._memory = torch.zeros(max(size, 1 << 24), dtype=torch.int32, device=device)  # four bytes each
        self._sums = partial_sums(device)

    def __call__(self) -> None:
        """Read four times the size of the cache; does not wait."""
        read(self._memory, self._sums)


@cache
def read_flush(device: torch.device) -> ReadFlush:
    """Return the one flush of a device: its memory is several times the cache."""
    return ReadFlush(device)


def measure(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return the roofs: copy_bytes_per_s, read_bytes_per_s, matmul_flops_per_s (of ``dtype``) and matmul_size.

    The product is repeated for half a second and the second half counts: what the power cap lets the card sustain.
    """
    return {
        "copy_bytes_per_s": round(copy_bandwidth(device)),
        "read_bytes_per_s": round(_read_bandwidth(device)),
        "matmul_flops_per_s": round(_product(device, dtype)),
        "matmul_size": SIZE,
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def _read_bandwidth(device: torch.device, size: int = 1 << 30) -> float:
    memory, sums = torch.zeros(size // 4, dtype=torch.int32, device=device), partial_sums(device)
    read(memory, sums)
    return size / min(_seconds(lambda: read(memory, sums), 10))


def _product(device: torch.device, dtype: torch.dtype) -> float:
    a = torch.randn(SIZE, SIZE, device=device, dtype=torch.float32).to(dtype)
    b = torch.randn(SIZE, SIZE, device=device, dtype=torch.float32).to(dtype)
    out = torch.empty(SIZE, SIZE, device=device, dtype=dtype)
    first = _seconds(lambda: torch.mm(a, b, out=out), 3)[-1]
    times = _seconds(lambda: torch.mm(a, b, out=out), max(4, round(0.5 / first)))
    return 2 * SIZE**3 / median(times[len(times) // 2 :])


def _seconds(call: Any, repeats: int) -> list[float]:
    pairs = []
    for _ in range(repeats):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        pairs.append((first, last))
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


def verify_cold(device: torch.device) -> dict[str, Any]:
    """Time reads that wait for one another, of lines that fit in the cache: when just read, and after a flush.

    Latency tells the two apart; throughput does not where memory is nearly as quick as the cache (an H200).

    Returns:
        flush (how), buffer_bytes, warm_us, cold_us, ratio, and cold: whether the flush made the reads so much slower
        that the cache must have been cold.
    """
    size = l2_cache_bytes(device)
    chain = chained(max(size // 4, 1 << 20) // 4, CHAINED, device)
    end = torch.empty(1, dtype=torch.int32, device=device)
    flush = read_flush(device)

    def once(cold: bool) -> float:
        # Either way the flush keeps the GPU busy until the timed reads are queued: else the launch is timed with them.
        if cold:
            follow(chain, end, CHAINED)
        flush()
        if not cold:
            follow(chain, end, CHAINED)
        return _seconds(lambda: follow(chain, end, CHAINED), 1)[0] * 1e6

    once(True)
    warm, after = (median(once(cold) for _ in range(20)) for cold in (False, True))
    return {
        "flush": f"a read of {4 * max(size, 1 << 24)} other bytes",
        "buffer_bytes": 4 * chain.numel(),
        "warm_us": round(warm, 3),
        "cold_us": round(after, 3),
        "ratio": round(after / warm, 3),
        "cold": after / warm >= VERIFIED,
    }
