"""Builds for other processors compute what this machine's does; builds for macOS link."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.kernels.cpu.binding import FUNCTIONS

SOURCES = Path(__file__).parents[3] / "kernels" / "cpu" / "src"
DRIVER = Path(__file__).with_name("driver.cpp")
FLAGS = "-std=c++17 -O2 -fopenmp -static -fno-strict-aliasing -fno-math-errno".split()
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def build(compiler: str, program: Path) -> None:
    """Compile the portable kernels and the program that calls all of them."""
    files = [SOURCES / "kernels.cpp", SOURCES / "instructions.cpp", DRIVER]
    subprocess.run(
        [
            compiler, *FLAGS, "-DINSTRUCTIONS=portable", "-DREGISTER_BYTES=16", f"-I{SOURCES}",
            *map(str, files), "-o", str(program),
        ],
        check=True,
    )  # fmt: skip


def results(command: list[str]) -> list[tuple[str, float]]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    split = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return [(name, float(value)) for name, value in split]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("g++", CROSS_COMPILER, EMULATOR))),
    reason=f"needs g++, {CROSS_COMPILER} and {EMULATOR}",
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86_64")
def test_aarch64_computes_what_x86_64_does(tmp_path) -> None:
    found = []
    for compiler, emulator in (("g++", []), (CROSS_COMPILER, [EMULATOR])):
        program = tmp_path / compiler
        build(compiler, program)
        found.append(results([*emulator, str(program)]))
    assert len(found[0]) > 5000
    for (name, here), (other, there) in zip(*found, strict=True):
        assert name == other
        # The kernels for Arm round once where a product is added, those for x86_64 twice.
        assert there == pytest.approx(here, rel=2e-5, abs=2e-6), name


@pytest.mark.slow
def test_a_library_for_arm64_macos_is_linked(tmp_path) -> None:
    """Clang and the headers and libraries for macOS come from the package `ziglang`."""
    pytest.importorskip("ziglang")
    library = tmp_path / "library.dylib"
    subprocess.run(
        [
            sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-macos", "-std=c++17",
            "-O2", "-shared", "-fPIC", "-fno-strict-aliasing", "-fno-math-errno",
            "-DINSTRUCTIONS=portable", "-DREGISTER_BYTES=16", f"-I{SOURCES}",
            str(SOURCES / "kernels.cpp"), str(SOURCES / "instructions.cpp"), "-o", str(library),
        ],
        check=True,
    )  # fmt: skip
    found = library.read_bytes()
    magic, processor = struct.unpack_from("<II", found)
    assert (magic, processor) == (0xFEEDFACF, 0x0100000C)  # Mach-O of 64 bits, arm64
    for name in FUNCTIONS:
        assert f"_hwnas_{name}_portable".encode() in found
