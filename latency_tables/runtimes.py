"""The runtimes a network can be deployed on, each with its own way to prepare and time a call.

A runtime gets a module in eval mode with batch norms folded, and gives back a call that runs one
inference in the mode that is deployed: an ONNX Runtime session with every graph optimisation, a
CUDA graph, or eager PyTorch in channels-last layout.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.devices import (
    cpu_name,
    cuda_versions,
    import_onnxruntime,
    import_torch,
    library_versions,
    require_cuda_device,
)
from hwnas.latency_tables.statistics import Statistic
from hwnas.latency_tables.table import DeviceProfile

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

ToOnnx = Callable[["nn.Module", tuple["torch.Tensor", ...]], bytes]

# Enough input copies to exceed an L2 cache, or none: a few small ones would stay cached anyway.
MAX_INPUT_COPIES = 8

_log = logging.getLogger(__name__)


class Runtime(ABC):
    """One way to run a network on one kind of device."""

    name: ClassVar[str]
    device_class: ClassVar[Literal["cpu", "gpu"]]
    statistic: ClassVar[Statistic]
    layout: ClassVar[str]

    def __init__(self, threads: int) -> None:
        """Keep the settings; nothing is imported or started yet.

        Args:
            threads: CPU threads that one inference may use.

        Raises:
            InputError: `threads` is below 1.
        """
        if threads < 1:
            raise InputError("unusable number", where="threads", expected=">= 1", actual=threads)
        self.threads = threads

    @abstractmethod
    def require(self) -> None:
        """Check that the runtime and its device are here.

        Raises:
            RuntimeMissingError: the library is not installed or there is no such device.
        """

    @abstractmethod
    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """Return a call that runs one inference of `module` on `inputs`.

        Args:
            module: in eval mode, batch norms folded; it is not changed.
            inputs: CPU tensors, (N, C, H, W) each.
            to_onnx: exports a module; used by the ONNX runtimes only.
        """

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """Return the ms that `calls` consecutive calls take."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) * 1e3

    @abstractmethod
    def device_name(self) -> str:
        """Return the marketing name of the processor that does the work."""

    def profile(
        self, *, dtype: str, batch: int, versions: Mapping[str, str] | None = None
    ) -> DeviceProfile:
        """Describe this device and setting for a table.

        Args:
            dtype: of weights and inputs, "float32".
            batch: images per inference.
            versions: added to those of the libraries found here.
        """
        return DeviceProfile(
            device=self.device_name(),
            device_class=self.device_class,
            runtime=self.name,
            dtype=dtype,
            batch=batch,
            threads=self.threads,
            layout=self.layout,
            versions=library_versions() | self._driver_versions() | dict(versions or {}),
        )

    def _driver_versions(self) -> dict[str, str]:
        return {}


class TorchCpu(Runtime):
    """Eager PyTorch on the CPU, channels last."""

    name = "torch-cpu"
    device_class = "cpu"
    statistic: ClassVar[Statistic] = "p10"
    layout = "NHWC"

    def require(self) -> None:
        """See `Runtime.require`."""
        import_torch(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        torch = import_torch(self.name)
        module = _deployed_copy(module)
        inputs = tuple(_channels_last(tensor) for tensor in inputs)

        @torch.inference_mode()
        def call() -> None:
            module(*inputs)

        return call

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; PyTorch's thread count is set for the block only."""
        torch = import_torch(self.name)
        threads_before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return super().time_block(call, calls)
        finally:
            torch.set_num_threads(threads_before)


class TorchCuda(Runtime):
    """PyTorch on an NVIDIA GPU: a CUDA graph where the module can be captured."""

    name = "torch-cuda"
    device_class = "gpu"
    statistic: ClassVar[Statistic] = "median"
    layout = "NHWC"

    def require(self) -> None:
        """See `Runtime.require`."""
        require_cuda_device(self.name)

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return import_torch(self.name).cuda.get_device_name()

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`; the call only enqueues, `time_block` waits for it.

        Inputs that a few copies of exceed the L2 cache are rotated, so that they are read from
        memory, as a stream of new images is.
        """
        torch = import_torch(self.name)
        module = _deployed_copy(module).cuda()
        copies = [
            tuple(_channels_last(tensor.cuda()).clone() for tensor in inputs)
            for _ in range(self._input_copies(inputs))
        ]
        eager_calls = [self._eager_call(module, given) for given in copies]
        try:
            calls = [self._captured(call) for call in eager_calls]
        except RuntimeError as error:
            _log.warning("not a CUDA graph, timed eagerly: %s", str(error).splitlines()[0])
            torch.cuda.synchronize()
            calls = eager_calls
        rotation = itertools.cycle(calls)

        def call() -> None:
            next(rotation)()

        return call

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """See `Runtime.time_block`; read from CUDA events around the block."""
        torch = import_torch(self.name)
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
        torch = import_torch(self.name)
        cache_bytes = torch.cuda.get_device_properties().L2_cache_size
        input_bytes = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        needed = 1 + cache_bytes // max(input_bytes, 1)
        return needed if needed <= MAX_INPUT_COPIES else 1

    def _eager_call(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> Callable[[], None]:
        torch = import_torch(self.name)

        @torch.inference_mode()
        def call() -> None:
            module(*inputs)

        return call

    def _captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """Record `call` into a CUDA graph and return a call that replays it."""
        torch = import_torch(self.name)
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


class OnnxRuntime(Runtime):
    """ONNX Runtime with all graph optimisations (fused operators, blocked layout inside)."""

    layout = "NCHW"
    providers: ClassVar[tuple[str, ...]]
    memory: ClassVar[str]

    def require(self) -> None:
        """See `Runtime.require`."""
        import_onnxruntime(self.name)

    def session(self, model: bytes, *, profile_to: str | None = None) -> Any:
        """Start an `onnxruntime.InferenceSession` as it is deployed.

        Args:
            model: a serialised ONNX model.
            profile_to: start of the path of the profiler's file; not profiled if None.

        Raises:
            InputError: ONNX Runtime refuses the model.
            RuntimeMissingError: the execution provider did not start. ONNX Runtime lists
                providers it cannot load and falls back without an error.
        """
        ort = import_onnxruntime(self.name)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_to
        try:
            session = ort.InferenceSession(model, options, providers=list(self.providers))
        except Exception as error:  # its exceptions share no base class
            raise InputError(
                f"ONNX Runtime refuses the model: {str(error).splitlines()[0]}",
                where=self.name,
            ) from error
        if session.get_providers()[0] != self.providers[0]:
            raise RuntimeMissingError(
                "the execution provider did not start",
                where=self.name,
                expected=self.providers[0],
                actual=session.get_providers()[0],
                mend="install its libraries or choose onnxruntime-cpu",
            )
        return session

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        import onnx

        model = to_onnx(module, inputs)
        names = [value.name for value in onnx.load_from_string(model).graph.input]
        if len(names) != len(inputs):
            raise InputError(
                "the exported model takes other inputs",
                where=self.name,
                expected=f"{len(inputs)} inputs",
                actual=len(names),
            )
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return self.prepare_onnx(model, feeds)

    def prepare_onnx(self, model: bytes, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a call that runs `model` once on tensors bound beforehand.

        Args:
            model: a serialised ONNX model.
            feeds: an array for each graph input, by name.

        Raises:
            InputError: the model is refused, or the feeds do not fit its inputs.
            RuntimeMissingError: the execution provider did not start.
        """
        ort = import_onnxruntime(self.name)
        session = self.session(model)
        names = {value.name for value in session.get_inputs()}
        if names != set(feeds):
            raise InputError(
                "feeds do not fit the model",
                where=self.name,
                expected=sorted(names),
                actual=sorted(feeds),
            )
        binding = session.io_binding()
        for name, array in feeds.items():
            value = ort.OrtValue.ortvalue_from_numpy(array, self.memory, 0)
            binding.bind_ortvalue_input(name, value)
        outputs = [value.name for value in session.get_outputs()]
        for name in outputs:
            binding.bind_output(name, self.memory)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions share no base class
            raise InputError(
                f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}",
                where=self.name,
            ) from error
        # The first run has shown the shapes: its outputs are reused, so none is allocated later.
        for name, value in zip(outputs, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)

        def call() -> None:
            session.run_with_iobinding(binding)

        return call


class OnnxRuntimeCpu(OnnxRuntime):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime-cpu"
    device_class = "cpu"
    statistic: ClassVar[Statistic] = "p10"
    providers = ("CPUExecutionProvider",)
    memory = "cpu"

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on an NVIDIA GPU; each run waits for the device, so the host clock serves."""

    name = "onnxruntime-cuda"
    device_class = "gpu"
    statistic: ClassVar[Statistic] = "median"
    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    memory = "cuda"

    def require(self) -> None:
        """See `Runtime.require`; starts a session, since only that shows the fallback."""
        super().require()
        require_cuda_device(self.name)
        self.session(_identity_model())

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return import_torch(self.name).cuda.get_device_name()

    def _driver_versions(self) -> dict[str, str]:
        return cuda_versions()


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


def _deployed_copy(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode and channels-last layout; the caller's module stays as it is."""
    import torch

    module = copy.deepcopy(module).eval()
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _identity_model() -> bytes:
    """Return the smallest ONNX model, to see which execution provider starts."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
