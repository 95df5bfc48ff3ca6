"""Kernels and supernets on fake tensors of a second CUDA device, without a GPU.

The cases (`tests/helpers/fake_cuda_cases.py`) run in a process of their own, since PyTorch for CPUs
needs a library for them, which stays in the process and has to be loaded first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.fake_cuda import LIBRARY

pytest.importorskip("triton")
TESTS = Path(__file__).parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def compiled(folder: Path) -> Path:
    """The library, compiled against PyTorch's headers."""
    source, library = TESTS / "helpers" / "fake_cuda.cpp", folder / "fake_cuda.so"
    own = Path(torch.__file__).parent
    assert COMPILER is not None
    command = [
        COMPILER, "-std=c++20", "-O0", "-shared", "-fPIC", "-isystem", own / "include", source,
        "-o", library, "-L", own / "lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{own / 'lib'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return library


@pytest.mark.long
def test_kernels_and_steps_on_a_second_device(tmp_path) -> None:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    if not (Path(torch.__file__).parent / "include" / "c10").is_dir():
        pytest.skip("this PyTorch has no headers")
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch has been built for CUDA and brings a library of its own")
    environment = dict(os.environ, PYTHONPATH=str(TESTS))
    environment[LIBRARY] = str(compiled(tmp_path))
    environment.pop("TRITON_INTERPRET", None)
    cases = TESTS / "helpers" / "fake_cuda_cases.py"
    command = (sys.executable, "-m", "pytest", "-q", "-p", "helpers.fake_cuda", str(cases))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
