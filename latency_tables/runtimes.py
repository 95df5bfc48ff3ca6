"""The runtimes a network can be deployed on, each with its own way to prepare and time a call.

A runtime gets a module in eval mode with batch norms folded, and gives back a call that runs one
inference in the mode that is deployed: an ONNX Runtime session with every graph optimisation, a
CUDA graph, or eager PyTorch in channels-last layout.
"""

from __future__ import annotations

from hwnas.errors import InputError
from hwnas.latency_tables.onnx_runtimes import Model, OnnxRuntime, OnnxRuntimeCpu, OnnxRuntimeCuda
from hwnas.latency_tables.runtime import Runtime, ToOnnx
from hwnas.latency_tables.torch_runtimes import TorchCpu, TorchCuda

__all__ = [
    "RUNTIMES",
    "Model",
    "OnnxRuntime",
    "OnnxRuntimeCpu",
    "OnnxRuntimeCuda",
    "Runtime",
    "ToOnnx",
    "TorchCpu",
    "TorchCuda",
    "create_runtime",
]

RUNTIMES: dict[str, type[Runtime]] = {
    "onnxruntime-cpu": OnnxRuntimeCpu,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "torch-cpu": TorchCpu,
    "torch-cuda": TorchCuda,
}


def create_runtime(name: str, threads: int) -> Runtime:
    """Return the runtime of that name; call its `require` before measuring.

    Raises:
        InputError: the name is unknown or `threads` is below 1.
    """
    if name not in RUNTIMES:
        raise InputError(
            "unknown runtime",
            where="runtime",
            expected=f"one of {', '.join(RUNTIMES)}",
            actual=name,
        )
    return RUNTIMES[name](threads)
