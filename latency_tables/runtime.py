"""What every runtime offers: a call that runs one inference as deployed, and a clock for it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from hwnas.errors import InputError
from hwnas.latency_tables.devices import library_versions
from hwnas.latency_tables.statistics import Statistic
from hwnas.latency_tables.table import DeviceProfile

if TYPE_CHECKING:
    import torch
    from torch import nn

ToOnnx = Callable[["nn.Module", tuple["torch.Tensor", ...]], bytes]


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
