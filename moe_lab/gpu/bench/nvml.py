# SPDX-License-Identifier: Apache-2.0
"""Clocks, temperature, power and throttling of a GPU, from NVIDIA's management library, which the driver includes."""

import ctypes
from dataclasses import dataclass
from typing import Any

_CLOCK_SM, _CLOCK_MEMORY, _SENSOR_GPU = 1, 2, 0
# Bits of nvmlClocksEventReasons that mean slower than requested (nvml.h).
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Sample:
    """The state of the GPU at one moment; None = it does not report the value.

    Attributes:
        sm_mhz: clock of the multiprocessors.
        memory_mhz: clock of the memory.
        temperature_c: of the GPU.
        power_w: current power draw.
        throttled: why the clocks are lower than requested; empty if they are not.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttled: tuple[str, ...] | None


class Monitor:
    """Reads the state of one GPU; every value is None on a machine without the library."""

    def __init__(self, uuid: str):
        """Find the GPU.

        Args:
            uuid: as the driver names it: ``GPU-...``.
        """
        # By UUID, because torch numbers only the GPUs that CUDA_VISIBLE_DEVICES leaves, and NVML numbers all of them.
        self._library: Any = None
        self._gpu = ctypes.c_void_p()
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            if library.nvmlInit_v2() == 0:
                found = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._gpu))
                self._library = library if found == 0 else None
        except OSError:
            pass

    def sample(self) -> Sample:
        """Return the current state; takes some tenths of a millisecond."""
        power = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        return Sample(
            self._ask("nvmlDeviceGetClockInfo", _CLOCK_SM),
            self._ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            self._ask("nvmlDeviceGetTemperature", _SENSOR_GPU),
            None if power is None else power / 1000,  # milliwatts
            None if reasons is None else tuple(name for bit, name in _REASONS.items() if reasons & bit),
        )

    def _ask(self, function: str, *arguments: int, kind: Any = ctypes.c_uint) -> int | None:
        value = kind()
        if self._library is None:
            return None
        try:
            code = getattr(self._library, function)(self._gpu, *arguments, ctypes.byref(value))
        except AttributeError:  # a library that lacks the function
            return None
        return int(value.value) if code == 0 else None


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Return columns of a row: the median clocks, the highest temperature and power, all reasons for throttling."""

    def known(name: str) -> list[Any]:
        return sorted(value for sample in samples if (value := getattr(sample, name)) is not None)

    clocks = {name: (lambda v: v[len(v) // 2] if v else None)(known(name)) for name in ("sm_mhz", "memory_mhz")}
    most = {name: max(known(name), default=None) for name in ("temperature_c", "power_w")}
    reasons = known("throttled")
    said = sorted({reason for given in reasons for reason in given})
    return clocks | most | {"throttled": ", ".join(said) or "no" if reasons else None}
