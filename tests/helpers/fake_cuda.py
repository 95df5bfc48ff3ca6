"""Two CUDA devices for fake tensors, on a machine without a GPU: a plugin of pytest.

PyTorch asks once for CUDA, so the library has to be loaded before PyTorch is imported, and stays
for the rest of the process. `tests/kernels/triton/test_devices.py` compiles it and starts such a
process.
"""

from __future__ import annotations

import ctypes
import os
import sys

LIBRARY = "HWNAS_TESTS_FAKE_CUDA"
"""Environment variable with the path of the library, compiled from `fake_cuda.cpp`."""

if LIBRARY in os.environ:
    if "torch" in sys.modules:
        raise RuntimeError("PyTorch has been imported before the library of fake CUDA devices")
    ctypes.CDLL(os.environ[LIBRARY])
