"""Builds for other processors compute what this machine's does; an emulator runs them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

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
