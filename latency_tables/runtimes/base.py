"""The interface of runtimes: preparing an inference as it is deployed, and timing it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwnas.errors import InputError
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.devices import library_versions
from hwnas.latency_tables.on_device.measure import Call, single_calls_ms
from hwnas.latency_tables.statistics import Statistic
from hwnas.latency_tables.timing import Progress, Protocol, RoundMedians, Stop, measure

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

ToOnnx = Callable[["nn.Module", tuple["torch.Tensor", ...]], bytes]
"""Exports a module with example inputs as a serialised ONNX model."""
Model = bytes | Path
"""A serialised ONNX model, or its file, which may have external data beside it."""
Infer = Callable[[Mapping[str, "np.ndarray"]], dict[str, Any]]
"""Runs one inference: takes an array for each graph input, by name, and returns the outputs."""


class Runtime(ABC):
    """A library, in one of its modes, that runs networks on one class of device.

    Attributes:
        name: `LIBRARY-DEVICE`, or `LIBRARY-MODE-DEVICE` if the library has several modes.
        device_class: "cpu" or "gpu".
        statistic: the quantile of the round medians that is repeatable on such a device.
        layout: memory layout of the inputs, "NCHW" or "NHWC".
        fuses: whether the library compiles operators together, so that an operator takes another
            time in a network than alone. Such operators are measured in a context.
        is_here: whether networks run on this machine.
        parallel: how many measurements may run at the same time without disturbing each other.
        place: name of the device that is elsewhere.
    """

    name: str
    device_class: Literal["cpu", "gpu"]
    statistic: Statistic
    layout: str
    fuses: bool
    is_here = True
    parallel = 1
    place = "this machine"

    def __init__(self, threads: int) -> None:
        """Keep the settings, without importing or starting the library.

        Args:
            threads: CPU threads that one inference may use.

        Raises:
            InputError: `threads` is below 1.
        """
        if threads < 1:
            raise InputError("invalid number", where="threads", expected=">= 1", actual=threads)
        self.threads = threads

    @property
    def remarks(self) -> Sequence[str]:
        """What made measurements doubtful so far, such as other programs on the device."""
        return ()

    @abstractmethod
    def require(self) -> None:
        """Check that this machine has the library and the device.

        Raises:
            RuntimeMissingError: the library is not installed or there is no such device.
        """

    @abstractmethod
    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """Return a function that runs one inference of `module` on `inputs`.

        Args:
            module: a module in eval mode whose batch norms are folded; it is not changed.
            inputs: CPU tensors, one for each argument of `module`.
            to_onnx: exports a module; only runtimes of ONNX models use it.

        Raises:
            InputError: the library cannot run the module.
        """

    def time_block(self, call: Callable[[], None], calls: int) -> float:
        """Return the time that `calls` consecutive calls take, in ms."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) * 1e3

    def measure(
        self,
        calls: Mapping[str, Call],
        protocol: Protocol,
        *,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> dict[str, RoundMedians]:
        """Time inferences in interleaved rounds by this runtime's clock and statistic.

        Args:
            calls: by name, functions that `prepare` returned; the first one is the sentinel.
            protocol: length of the blocks, number of rounds and the stopping rule.
            progress: see `hwnas.latency_tables.timing.measure`.
            stop: see `hwnas.latency_tables.timing.measure`.
        """
        return measure(
            calls,
            protocol,
            statistic=self.statistic,
            time_block=self.time_block,
            progress=progress,
            stop=stop,
        )

    def single_calls_ms(
        self, call: Call, *, calls: int, seconds: float, few: int, few_seconds: float
    ) -> list[float]:
        """Time single calls; see `hwnas.latency_tables.on_device.measure.single_calls_ms`."""
        return single_calls_ms(call, calls, seconds, few, few_seconds)

    @abstractmethod
    def device_name(self) -> str:
        """Return the marketing name of the processor that runs the network."""

    def options(self) -> dict[str, str]:
        """Return the library's settings for running networks, under the library's own names."""
        return {}

    def profile(
        self, *, dtype: str, batch: int, versions: Mapping[str, str] | None = None
    ) -> DeviceProfile:
        """Return the device and the settings, as a table states them.

        Args:
            dtype: number format of weights and inputs, such as "float32".
            batch: images per inference.
            versions: versions to add to those of the installed libraries.
        """
        return DeviceProfile(
            device=self.device_name(),
            device_class=self.device_class,
            runtime=self.name,
            dtype=dtype,
            batch=batch,
            threads=self.threads,
            layout=self.layout,
            options=self.options() or None,
            versions=self._versions() | dict(versions or {}),
        )

    def _versions(self) -> dict[str, str]:
        return library_versions()


class OnnxModelRuntime(Runtime):
    """A runtime of ONNX models, whichever program exported them."""

    layout = "NCHW"
    fuses = True

    @abstractmethod
    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a function that runs `model` once on inputs that are bound in advance.

        Args:
            model: an ONNX model.
            feeds: an array for each graph input, by name.

        Raises:
            InputError: the library cannot load the model, or the feeds do not match its inputs.
            RuntimeMissingError: the library does not start with the runtime's settings.
        """

    @abstractmethod
    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """Return a function that runs the model; several threads may call it at the same time.

        The function raises the library's own exceptions.

        Args:
            model: an ONNX model.
            limit_s: wall-clock seconds after which a call ends with InputError. OpenVINO ignores
                it, since its loops cannot be interrupted.

        Raises:
            InputError: see `prepare_onnx`.
            RuntimeMissingError: see `prepare_onnx`.
        """

    @abstractmethod
    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """Return `infer` for the unoptimised graph, always run by ONNX Runtime."""

    @abstractmethod
    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """Return how many nodes of each operator type each part of the runtime executes.

        Returns:
            By part (an execution provider or a device), the number of nodes by operator type.

        Raises:
            InputError: see `prepare_onnx`.
            RuntimeMissingError: see `prepare_onnx`.
        """

    def prepare(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], to_onnx: ToOnnx
    ) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        import onnx

        model = to_onnx(module, inputs)
        names = [value.name for value in onnx.load_from_string(model).graph.input]
        if len(names) != len(inputs):
            raise InputError(
                "the exported model has another number of inputs than the module",
                where=self.name,
                expected=f"{len(inputs)} inputs",
                actual=len(names),
            )
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return self.prepare_onnx(model, feeds)

    def _require_inputs(self, names: set[str], feeds: Mapping[str, np.ndarray]) -> None:
        """Raise InputError if the feeds are not named as the model's inputs."""
        if names != set(feeds):
            raise InputError(
                "the feeds do not match the model's inputs",
                where=self.name,
                expected=sorted(names),
                actual=sorted(feeds),
            )
