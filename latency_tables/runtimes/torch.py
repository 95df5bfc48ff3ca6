"""PyTorch as a runtime, in channels-last layout: called directly on CPUs, as a CUDA graph on GPUs.

On either device a module runs eagerly, as an exported program or as a compiled program.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hwnas.latency_tables.devices import (
    cpu_name,
    cuda_device_name,
    cuda_versions,
    require_cuda_device,
    require_library,
)
from hwnas.latency_tables.runtimes.base import Runtime, ToOnnx
from hwnas.latency_tables.runtimes.torch_modes import MODES, compiler_options, require_compiler

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_INPUT_COPIES = 8
"""Copies of the inputs that are rotated to exceed a GPU's L2 cache. Inputs that would need more
copies are not rotated: they are so small that they would stay cached anyway."""

_log = logging.getLogger(__name__)


class TorchRuntime(Runtime):
    """PyTorch in one of its modes.

    Attributes:
        mode: how a module is executed, a key of `MODES`.
    """

    layout = "NHWC"
    fuses = False
    mode: ClassVar[str] = "eager"

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; the compiler's settings, if the mode has a compiler."""
        return compiler_options(self.threads) if self.fuses else {}


class TorchCpu(TorchRuntime):
    """Eager PyTorch on the CPU."""

    name = "torch-cpu"
    device_class = "cpu"
    statistic = "p10"

    def require(self) -> None:
        """See `Runtime.require`."""
        require_library("torch", self.name)
        if self.fuses:
            require_compiler(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        module = _deployed_copy(module)
        inputs = tuple(_channels_last(tensor) for tensor in inputs)
        # Compilers generate code for a fixed number of threads.
        with self._own_threads():
            program = MODES[self.mode](module, inputs, self.threads)
        return _inference_call(program, inputs)

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; PyTorch's number of threads is set for the block only."""
        with self._own_threads():
            return super().time_block(call, calls)

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        """Set PyTorch's number of threads, and restore it at the end."""
        import torch

        threads_before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


class TorchExportCpu(TorchCpu):
    """A program of `torch.export` on the CPU: its operators in sequence, without modules."""

    name = "torch-export-cpu"
    mode = "export"


class TorchCompileCpu(TorchCpu):
    """`torch.compile` on the CPU."""

    name = "torch-compile-cpu"
    fuses = True
    mode = "compile"


class TorchAotiCpu(TorchCpu):
    """AOTInductor on the CPU: a shared library that can be deployed without Python."""

    name = "torch-aoti-cpu"
    fuses = True
    mode = "aoti"


class TorchCuda(TorchRuntime):
    """Eager PyTorch on an NVIDIA GPU, as a CUDA graph if the module can be captured."""

    name = "torch-cuda"
    device_class = "gpu"
    statistic = "median"

    def require(self) -> None:
        """See `Runtime.require`."""
        require_cuda_device(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cuda_device_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`; the function only enqueues work, and `time_block` waits for it.

        If a few copies of the inputs exceed the L2 cache, these copies are used in turn. The inputs
        are then read from memory, as they are in a stream of new images.
        """
        import torch

        module = _deployed_copy(module).cuda()
        copies = [
            tuple(_channels_last(tensor.cuda()).clone() for tensor in inputs)
            for _ in range(self._input_copies(inputs))
        ]
        program = MODES[self.mode](module, copies[0], self.threads)
        plain_calls = [_inference_call(program, given) for given in copies]
        try:
            calls = [self._captured(call) for call in plain_calls]
        except RuntimeError as error:
            _log.warning("timed without a CUDA graph: %s", str(error).splitlines()[0])
            torch.cuda.synchronize()
            calls = plain_calls
        rotation = itertools.cycle(calls)

        def call() -> None:
            next(rotation)()

        return call

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; measured with CUDA events around the block."""
        cuda = _cuda()
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def _versions(self) -> dict[str, str]:
        return super()._versions() | cuda_versions()

    def _input_copies(self, inputs: tuple[torch.Tensor, ...]) -> int:
        """Return how many copies of the inputs exceed the L2 cache, 1 if too many would."""
        import torch

        cache_bytes = torch.cuda.get_device_properties().L2_cache_size
        input_bytes = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        needed = 1 + cache_bytes // max(input_bytes, 1)
        return needed if needed <= MAX_INPUT_COPIES else 1

    def _captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """Capture `call` as a CUDA graph and return a function that replays it."""
        cuda = _cuda()
        # Libraries select their algorithms in the first runs, which must not be captured.
        side_stream = cuda.Stream()
        side_stream.wait_stream(cuda.current_stream())
        with cuda.stream(side_stream):
            for _ in range(3):
                call()
        cuda.current_stream().wait_stream(side_stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            call()

        # The graph reads the memory of the inputs, which `call` keeps alive.
        def replay(inputs_alive: Callable[[], None] = call) -> None:
            graph.replay()

        return replay


class TorchExportCuda(TorchCuda):
    """A program of `torch.export` on an NVIDIA GPU."""

    name = "torch-export-cuda"
    mode = "export"


class TorchCompileCuda(TorchCuda):
    """`torch.compile` on an NVIDIA GPU."""

    name = "torch-compile-cuda"
    fuses = True
    mode = "compile"


class TorchAotiCuda(TorchCuda):
    """AOTInductor on an NVIDIA GPU."""

    name = "torch-aoti-cuda"
    fuses = True
    mode = "aoti"


def _inference_call(
    program: Callable[..., Any], inputs: tuple[torch.Tensor, ...]
) -> Callable[[], None]:
    """Return a function that calls a program in inference mode."""
    import torch

    @torch.inference_mode()
    def call() -> None:
        program(*inputs)

    return call


def _cuda() -> Any:
    """Return `torch.cuda`, most of whose classes have no annotations."""
    import torch

    return torch.cuda


def _deployed_copy(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode and channels-last layout; the module itself is not changed."""
    import torch

    deployed = copy.deepcopy(module).eval()
    # PyTorch's annotations lack this keyword.
    deployed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return deployed


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
