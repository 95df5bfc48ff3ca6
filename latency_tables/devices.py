"""The machine's processors and drivers, and the installed libraries that run networks on them."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hwnas.errors import RuntimeMissingError

LIBRARIES = {
    "torch": ("PyTorch", "torch"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime"),
    "openvino": ("OpenVINO", "'hwnas[openvino]'"),
    "ncnn": ("ncnn", "'hwnas[ncnn]'"),
    "pnnx": ("pnnx", "'hwnas[ncnn]'"),
}
"""Libraries that run networks: for each module its title and the package to install."""


def cpu_name() -> str:
    """Return the processor's marketing name, or the architecture if it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that run networks."""
    versions = {"python": platform.python_version()}
    for library, packages in {
        "torch": ("torch",),
        "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
        "openvino": ("openvino",),
        "ncnn": ("ncnn",),
        "triton": ("triton",),
    }.items():
        for package in packages:
            try:
                versions[library] = version(package)
                break
            except PackageNotFoundError:
                continue
    return versions


def cuda_versions() -> dict[str, str]:
    """Return the CUDA version that PyTorch was built for, and the driver's if NVML is installed."""
    import torch

    versions = {"cuda": str(torch.version.cuda)}
    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return versions
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return versions
    return versions | {"driver": driver if isinstance(driver, str) else driver.decode()}


def cuda_device_name() -> str:
    """Return the marketing name of PyTorch's current GPU."""
    import torch

    return torch.cuda.get_device_name()


def require_cuda_device(runtime: str) -> None:
    """Check that there is a GPU.

    Args:
        runtime: name of the runtime that needs it, for the error message.

    Raises:
        RuntimeMissingError: PyTorch is not installed or finds no GPU.
    """
    # Without a driver there is no usable GPU. PyTorch would take seconds to find that out.
    is_linux = platform.system() == "Linux"
    has_driver = not is_linux or any(Path(d).exists() for d in ("/dev/nvidiactl", "/dev/dxg"))
    if not has_driver or not import_library("torch", runtime).cuda.is_available():
        raise RuntimeMissingError(
            "no CUDA device",
            where=runtime,
            expected="an NVIDIA GPU and a PyTorch built for it",
            mend=f"choose {runtime.replace('cuda', 'cpu')}",
        )


def require_library(name: str, runtime: str) -> None:
    """Check that a library is installed, without the seconds that importing it may take.

    Arguments and errors are those of `import_library`.
    """
    if name in sys.modules:
        installed = sys.modules[name] is not None
    else:
        installed = find_spec(name) is not None
    if not installed:
        raise _not_installed(name, runtime)


def import_library(name: str, runtime: str) -> Any:
    """Import a library.

    Args:
        name: a key of `LIBRARIES`.
        runtime: name of the runtime that needs it, for the error message.

    Raises:
        RuntimeMissingError: the library is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise _not_installed(name, runtime) from error


def _not_installed(name: str, runtime: str) -> RuntimeMissingError:
    title, package = LIBRARIES[name]
    return RuntimeMissingError(
        f"{title} is not installed", where=runtime, mend=f"pip install {package}"
    )
