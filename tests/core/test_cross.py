"""The NEON kernels: cross-compiled, and run where an emulator is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "sona" / "_core"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.skipif(COMPILER is None, reason="no cross-compiler for aarch64")
def test_neon_kernels(tmp_path: Path) -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    families = re.findall(r"set\(families (.+)\)", cmake)[0].split()
    objects = []
    for isa, define in [("baseline", "SONA_ISA_BASELINE"), ("neon", "SONA_ISA_NEON")]:
        for family in families:
            objects.append(tmp_path / f"{family}_{isa}.o")
            source = CORE / "simd" / f"{family}.cpp"
            build(f"-DSONA_ISA={isa}", f"-D{define}", "-c", source, "-o", objects[-1])
    drivers = sorted(CORE.glob("*.cpp"))
    check = Path(__file__).parent / "emulation" / "check_kernels.cpp"
    program = tmp_path / "check"
    build("-DSONA_ARM64", "-static", "-pthread", check, *drivers, *objects, "-o", program)
    if EMULATOR is None:
        pytest.skip("compiled; no emulator for aarch64 to run it")
    answer = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert answer.stdout.split("\n")[:2] == ["neon", "all agree"], answer.stdout + answer.stderr


def build(*arguments: object) -> None:
    command = [COMPILER, "-std=c++17", "-O2", f"-I{CORE}", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
