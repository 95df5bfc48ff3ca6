"""The runtimes that a network can be deployed with, and how each prepares and times an inference.

A runtime takes a module in eval mode whose batch norms are folded, and returns a function that runs
one inference as it would be deployed: a session with all graph optimisations, a model compiled for
the processor, a CUDA graph, or eager PyTorch in channels-last layout.
"""

from __future__ import annotations

from hwnas.errors import InputError, did_you_mean
from hwnas.latency_tables.runtimes.base import Infer, Model, OnnxModelRuntime, Runtime, ToOnnx
from hwnas.latency_tables.runtimes.ncnn import NcnnCpu
from hwnas.latency_tables.runtimes.onnx import (
    OnnxRuntime,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    TensorRtCuda,
)
from hwnas.latency_tables.runtimes.openvino import OpenVinoCpu
from hwnas.latency_tables.runtimes.torch import (
    TorchAotiCpu,
    TorchAotiCuda,
    TorchCompileCpu,
    TorchCompileCuda,
    TorchCpu,
    TorchCuda,
    TorchExportCpu,
    TorchExportCuda,
)

__all__ = [
    "RUNTIMES",
    "Infer",
    "Model",
    "NcnnCpu",
    "OnnxModelRuntime",
    "OnnxRuntime",
    "OnnxRuntimeCpu",
    "OnnxRuntimeCuda",
    "OpenVinoCpu",
    "Runtime",
    "TensorRtCuda",
    "ToOnnx",
    "TorchCpu",
    "TorchCuda",
    "create_runtime",
]

RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (
        OnnxRuntimeCpu,
        OnnxRuntimeCuda,
        OpenVinoCpu,
        NcnnCpu,
        TensorRtCuda,
        TorchCpu,
        TorchCuda,
        TorchExportCpu,
        TorchExportCuda,
        TorchCompileCpu,
        TorchCompileCuda,
        TorchAotiCpu,
        TorchAotiCuda,
    )
}


def create_runtime(name: str, threads: int) -> Runtime:
    """Return the runtime of a name; call its `require` before measuring.

    Args:
        name: a key of `RUNTIMES`.
        threads: CPU threads that one inference may use.

    Raises:
        InputError: the name is unknown or `threads` is below 1.
    """
    if name not in RUNTIMES:
        raise InputError(
            "unknown runtime",
            where="runtime",
            expected=f"one of {', '.join(RUNTIMES)}",
            actual=name,
            mend=did_you_mean(name, RUNTIMES),
        )
    return RUNTIMES[name](threads)
