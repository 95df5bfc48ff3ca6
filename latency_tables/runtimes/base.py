"""What every runtime offers: a call that runs one inference as deployed, and a clock for it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hwnas.errors import InputError
from hwnas.latency_tables.devices import library_versions
from hwnas.latency_tables.statistics import Statistic
from hwnas.latency_tables.table import DeviceProfile

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

ToOnnx = Callable[["nn.Module", tuple["torch.Tensor", ...]], bytes]
Model = bytes | Path
"""A serialised ONNX model, or its file, which may have external data beside it."""
Infer = Callable[[Mapping[str, "np.ndarray"]], dict[str, Any]]
"""One inference: an array for each graph input, by name, to the outputs by name."""


class Runtime(ABC):
    """One way to run a network on one kind of device.

    Attributes:
        name: `LIBRARY-DEVICE`, or `LIBRARY-MODE-DEVICE` where the library has several modes.
        device_class: of the processor.
        statistic: the quantile that repeats on such a device.
        layout: of the inputs in memory.
        fuses: whether operators are compiled together, so that one alone is another program than
            the same one in a network; it is then measured in a context.
    """

    name: ClassVar[str]
    device_class: ClassVar[Literal["cpu", "gpu"]]
    statistic: ClassVar[Statistic]
    layout: ClassVar[str]
    fuses: ClassVar[bool]

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
            inputs: CPU tensors, one for each argument of `module`.
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

    def options(self) -> dict[str, str]:
        """Return the settings of the library that networks are run with, as it names them."""
        return {}

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
            options=self.options() or None,
            versions=library_versions() | self._driver_versions() | dict(versions or {}),
        )

    def _driver_versions(self) -> dict[str, str]:
        return {}


class OnnxModelRuntime(Runtime):
    """A runtime that runs ONNX models of any maker."""

    layout = "NCHW"
    fuses = True

    @abstractmethod
    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Return a call that runs `model` once on tensors bound beforehand.

        Args:
            model: an ONNX model.
            feeds: an array for each graph input, by name.

        Raises:
            InputError: the model is refused, or the feeds do not fit its inputs.
            RuntimeMissingError: the runtime does not start with its settings.
        """

    @abstractmethod
    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """Return the model as a function, which several threads may call at once.

        The function raises what the library raises.

        Args:
            model: an ONNX model.
            limit_s: wall-clock seconds of a call, after which it ends with InputError. OpenVINO,
                which cannot be interrupted in a loop, leaves it out.

        Raises:
            InputError, RuntimeMissingError: as for `prepare_onnx`.
        """

    @abstractmethod
    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """`infer` of the graph as it stands in the file, by ONNX Runtime."""

    @abstractmethod
    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """How many nodes of each operator every part of the runtime runs.

        Raises:
            InputError, RuntimeMissingError: as for `prepare_onnx`.
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
                "the exported model takes other inputs",
                where=self.name,
                expected=f"{len(inputs)} inputs",
                actual=len(names),
            )
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return self.prepare_onnx(model, feeds)

    def _require_inputs(self, names: set[str], feeds: Mapping[str, np.ndarray]) -> None:
        """InputError where the feeds are not those of the model's inputs."""
        if names != set(feeds):
            raise InputError(
                "feeds do not fit the model",
                where=self.name,
                expected=sorted(names),
                actual=sorted(feeds),
            )
