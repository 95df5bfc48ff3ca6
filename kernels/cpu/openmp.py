"""The OpenMP runtime that the C++ kernels share with PyTorch.

The kernels are not linked to a runtime, since two of them in one process would each start a thread
for every core. They take the symbols of one that is already loaded for all libraries to see.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

FILE_NAME = re.compile(r"lib(gomp|iomp5|omp)(-[0-9a-f]+)?(\.so|\.dylib|\.\d+)+")
"""GCC's, Intel's and LLVM's; packages of Python add a checksum to the name."""

OF_SYSTEM = {
    "linux": ("libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so"),
    "darwin": (
        "libomp.dylib",
        "/opt/homebrew/opt/libomp/lib/libomp.dylib",
        "/usr/local/opt/libomp/lib/libomp.dylib",
    ),
}
"""Where to look for a runtime of the system's, by `sys.platform`."""


def load_with_openmp(path: Path) -> ctypes.CDLL:
    """Load a library that was compiled for OpenMP but not linked to a runtime.

    Raises:
        OSError: when it cannot be loaded with any runtime that was found.
    """
    for runtime in runtimes():
        try:
            ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
        except OSError:  # of another compiler's runtime, or for another processor
            continue
    return ctypes.CDLL(str(path))  # which needs none, or says what is missing


def runtimes() -> Iterator[str]:
    """Runtimes to try: those in PyTorch's folder, those in this process, those of the system."""
    found = chain(bundled(), mapped(), OF_SYSTEM.get(sys.platform, ()))
    return iter(dict.fromkeys(found))


def bundled() -> list[str]:
    """Runtimes in the folder of PyTorch's libraries."""
    folder = Path(torch.__file__).parent / "lib"
    return sorted(str(path) for path in folder.glob("lib*") if FILE_NAME.fullmatch(path.name))


def mapped() -> list[str]:
    """Runtimes that this process has loaded: PyTorch's own first, then those installed beside it.

    PyTorch has loaded one, from wherever its package keeps it: its own folder, another folder of
    the environment, or the system's libraries. Other packages may have loaded further ones.
    """
    paths = [p for p in _loaded_files() if FILE_NAME.fullmatch(Path(p).name)]
    own = Path(torch.__file__).parent
    folders = (str(own), str(own.parent))
    return sorted(dict.fromkeys(paths), key=lambda path: [not path.startswith(f) for f in folders])


def _loaded_files() -> Iterator[str]:
    """Paths of the files that are mapped into this process; none where that is not known."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text(errors="replace").splitlines():
            columns = line.split(maxsplit=5)
            if len(columns) == 6:
                yield columns[5]
    elif sys.platform == "darwin":
        process = ctypes.CDLL(None)
        process._dyld_get_image_name.restype = ctypes.c_char_p
        for index in range(process._dyld_image_count()):
            yield process._dyld_get_image_name(index).decode(errors="replace")
