"""What this core can do at most, measured: float32 multiply-adds and bytes read per second."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from bench.kernels.timing import Case

_SOURCE = Path(__file__).with_name("roofline.cpp")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEVELS = {"L1": 16, "L2": 256, "L3": 8_000, "DRAM": 400_000}


class Limits:
    """What one core did at most in this run."""

    def __init__(self, gflops: float, gbytes: dict[str, float]) -> None:
        self.gflops = gflops
        self.gbytes = gbytes

    def seconds(self, case: Case) -> tuple[float, str]:
        """The least time that a float32 implementation can take, and what forbids less."""
        level = next(name for name, size in _cache_sizes().items() if case.bytes_read <= size)
        by_flops = case.flops / self.gflops / 1e9
        by_bytes = case.bytes_read / self.gbytes[level] / 1e9
        least = max((by_flops, "FMA"), (by_bytes, level))
        return least[0] / case.threads, least[1]


@cache
def _cache_sizes() -> dict[str, float]:
    """Bytes of each level, as the system has it or as is usual."""
    sizes = {"L1": 32e3, "L2": 512e3, "L3": 32e6}
    for index in _CACHES.glob("index*"):
        level, kind, size = (
            index.joinpath(n).read_text().strip() for n in ("level", "type", "size")
        )
        if kind != "Instruction" and size.endswith("K"):
            sizes[f"L{level}"] = 1024.0 * float(size[:-1])
    return {**{name: sizes[name] for name in ("L1", "L2", "L3")}, "DRAM": float("inf")}


class Roofline:
    """The probe, compiled for this machine.

    Other work on the machine lowers what a core can do, so ask just before and after a case.
    """

    def __init__(self, compiler: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "roofline.so"
            flags = ["-O3", "-march=native", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], check=True)
            self._probe = ctypes.CDLL(str(library))
        self._probe.fma_gflops.restype = self._probe.read_gbytes.restype = ctypes.c_double
        self._probe.fma_gflops.argtypes = [ctypes.c_long]
        self._probe.read_gbytes.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]

    @cached_property
    def rates(self) -> dict[str, float]:
        """GB/s from each level, measured once."""
        return self.read()

    def limits(self) -> Limits:
        """The limits now; of two answers around a case the larger counts."""
        return Limits(self.fma(), self.rates)

    def fma(self, repeats: int = 30) -> float:
        """GFLOP/s of one core in registers: the best of some short runs."""
        return max(float(self._probe.fma_gflops(300_000)) for _ in range(repeats))

    def read(self, repeats: int = 5) -> dict[str, float]:
        """GB/s that one core reads from each level of memory."""
        rates = {}
        for level, kilobytes in _LEVELS.items():
            data = np.ones(kilobytes * 256 + 16, dtype=np.float32)
            start = data.ctypes.data + -data.ctypes.data % 64
            rounds = max(1, 100_000 // kilobytes)
            rates[level] = max(
                float(self._probe.read_gbytes(start, kilobytes * 256, rounds))
                for _ in range(repeats)
            )
        return rates


def find_roofline() -> Roofline | None:
    """None where there is no C++ compiler to build the probe with."""
    compiler = shutil.which("c++") or shutil.which("g++")
    return None if compiler is None else Roofline(compiler)
