"""What this core can do at most, measured: float32 multiply-adds and bytes read per second."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SOURCE = Path(__file__).with_name("roofline.cpp")
_LEVELS = {"L1": 16, "L2": 256, "L3": 8_000, "DRAM": 400_000}


@dataclass(frozen=True)
class Roofline:
    """GFLOP/s of one core, and GB/s that it reads from each level of memory."""

    fma: float
    read: dict[str, float]


def measure_roofline(seconds: float = 2.0) -> Roofline | None:
    """Compile and run the probe; None where there is no C++ compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "roofline.so"
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(library)], check=True)
        probe = ctypes.CDLL(str(library))
    probe.fma_gflops.restype = probe.read_gbytes.restype = ctypes.c_double
    probe.fma_gflops.argtypes = [ctypes.c_long]
    probe.read_gbytes.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    repeats = max(3, int(20 * seconds))
    fma = max(probe.fma_gflops(500_000) for _ in range(repeats))
    read = {}
    for level, kilobytes in _LEVELS.items():
        data = np.ones(kilobytes * 256 + 16, dtype=np.float32)
        start = data.ctypes.data + -data.ctypes.data % 64
        rounds = max(1, 100_000 // kilobytes)
        read[level] = max(
            probe.read_gbytes(start, kilobytes * 256, rounds) for _ in range(max(3, repeats // 5))
        )
    return Roofline(fma, read)
