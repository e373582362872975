"""What this core can do at most, measured: float32 multiply-adds and bytes read per second."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

_SOURCE = Path(__file__).with_name("roofline.cpp")
_LEVELS = {"L1": 16, "L2": 256, "L3": 8_000, "DRAM": 400_000}


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
