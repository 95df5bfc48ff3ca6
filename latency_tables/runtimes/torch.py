"""PyTorch as a runtime, channels last: called directly on CPUs, as a CUDA graph on GPUs.

Either runs a module as it is (eager), as an exported program, or as what a compiler makes of that.
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
    cuda_versions,
    import_library,
    require_cuda_device,
)
from hwnas.latency_tables.runtimes.base import Runtime, ToOnnx
from hwnas.latency_tables.runtimes.torch_modes import MODES, compiler_options, require_compiler
from hwnas.latency_tables.statistics import Statistic

if TYPE_CHECKING:
    import torch
    from torch import nn

# Enough input copies to exceed an L2 cache, or none: a few small ones would stay cached anyway.
MAX_INPUT_COPIES = 8

_log = logging.getLogger(__name__)


class TorchRuntime(Runtime):
    """A mode of PyTorch on some device.

    Attributes:
        mode: a key of `MODES`: what is made of a module before it is called.
    """

    layout = "NHWC"
    fuses = False
    mode: ClassVar[str] = "eager"

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; those of the compiler, where there is one."""
        return compiler_options(self.threads) if self.fuses else {}


class TorchCpu(TorchRuntime):
    """Eager PyTorch on the CPU."""

    name = "torch-cpu"
    device_class = "cpu"
    statistic: ClassVar[Statistic] = "p10"

    def require(self) -> None:
        """See `Runtime.require`."""
        import_library("torch", self.name)
        if self.fuses:
            require_compiler(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        torch = import_library("torch", self.name)
        module = _deployed_copy(module)
        inputs = tuple(_channels_last(tensor) for tensor in inputs)
        # Compilers fix the number of threads in what they write.
        with self._own_threads():
            program = MODES[self.mode](module, inputs, self.threads)

        @torch.inference_mode()
        def call() -> None:
            program(*inputs)

        return call

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; PyTorch's thread count is set for the block only."""
        with self._own_threads():
            return super().time_block(call, calls)

    @contextmanager
    def _own_threads(self) -> Iterator[None]:
        torch = import_library("torch", self.name)
        threads_before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


class TorchExportCpu(TorchCpu):
    """A program by `torch.export` on the CPU: its operators in a row, without modules."""

    name = "torch-export-cpu"
    mode = "export"


class TorchCompileCpu(TorchCpu):
    """`torch.compile` on the CPU."""

    name = "torch-compile-cpu"
    fuses = True
    mode = "compile"


class TorchAotiCpu(TorchCpu):
    """AOTInductor on the CPU: a shared library, which needs no Python to be deployed."""

    name = "torch-aoti-cpu"
    fuses = True
    mode = "aoti"


class TorchCuda(TorchRuntime):
    """Eager PyTorch on an NVIDIA GPU: a CUDA graph where the module can be captured."""

    name = "torch-cuda"
    device_class = "gpu"
    statistic: ClassVar[Statistic] = "median"

    def require(self) -> None:
        """See `Runtime.require`."""
        require_cuda_device(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return import_library("torch", self.name).cuda.get_device_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`; the call only enqueues, `time_block` waits for it.

        Inputs that a few copies of exceed the L2 cache are rotated, so that they are read from
        memory, as a stream of new images is.
        """
        torch = import_library("torch", self.name)
        module = _deployed_copy(module).cuda()
        copies = [
            tuple(_channels_last(tensor.cuda()).clone() for tensor in inputs)
            for _ in range(self._input_copies(inputs))
        ]
        program = MODES[self.mode](module, copies[0], self.threads)
        plain_calls = [self._plain_call(program, given) for given in copies]
        try:
            calls = [self._captured(call) for call in plain_calls]
        except RuntimeError as error:
            _log.warning("not a CUDA graph, timed without: %s", str(error).splitlines()[0])
            torch.cuda.synchronize()
            calls = plain_calls
        rotation = itertools.cycle(calls)

        def call() -> None:
            next(rotation)()

        return call

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; read from CUDA events around the block."""
        torch = import_library("torch", self.name)
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def _driver_versions(self) -> dict[str, str]:
        return cuda_versions()

    def _input_copies(self, inputs: tuple[torch.Tensor, ...]) -> int:
        torch = import_library("torch", self.name)
        cache_bytes = torch.cuda.get_device_properties().L2_cache_size
        input_bytes = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        needed = 1 + cache_bytes // max(input_bytes, 1)
        return needed if needed <= MAX_INPUT_COPIES else 1

    def _plain_call(
        self, program: Callable[..., Any], inputs: tuple[torch.Tensor, ...]
    ) -> Callable[[], None]:
        torch = import_library("torch", self.name)

        @torch.inference_mode()
        def call() -> None:
            program(*inputs)

        return call

    def _captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """Record `call` into a CUDA graph and return a call that replays it."""
        torch = import_library("torch", self.name)
        # Libraries pick their algorithms in the first runs, which must not be captured.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()

        def replay(graph: Any = graph, inputs_alive: Any = call) -> None:
            graph.replay()

        return replay


class TorchExportCuda(TorchCuda):
    """A program by `torch.export` on an NVIDIA GPU."""

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


def _deployed_copy(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode and channels-last layout; the caller's module stays as it is."""
    import torch

    module = copy.deepcopy(module).eval()
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
