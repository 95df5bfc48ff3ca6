"""Small tensors that the Triton kernels read, made once and kept on the device.

A constant is made on the CPU and copied while the host waits for the copy. It is therefore complete
when it is returned, and kernels of any stream may read it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, TypeVarTuple

import torch
from torch import Tensor

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T", bound=Tensor | tuple[Any, ...])

MARK = "_hwnas_constant"
"""Attribute of a tensor that is a constant."""
OF_FAKE_MODE = "_hwnas_constants"
"""Attribute of a `FakeTensorMode` that holds the constants made under it, of no use elsewhere."""


class DeviceConstants(Generic[T, *Arguments]):
    """A function whose results are kept, by its arguments.

    When it is full, all results are freed but those that a CUDA graph has been captured with, since
    the graph reads them whenever it is replayed.

    Args:
        make: returns a tensor or a named tuple with tensors. One of its arguments is the device; it
            makes its tensors without naming one, and then copies them to it without conversion.
        limit: number of results that are kept.
    """

    def __init__(self, make: Callable[[*Arguments], T], limit: int) -> None:
        self.__doc__ = make.__doc__
        self.__wrapped__ = make
        self._limit = limit
        self._kept: dict[Any, T] = {}
        self._captured: dict[Any, T] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: *Arguments) -> T:
        mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        if mode is not None:
            return self._under_fake_mode(mode, *args)
        found = self._kept.get(args)
        if found is None:
            found = self._make(*args)
            if any(type(t) is not Tensor for t in _tensors(found)):
                return found  # of a mode that wraps tensors, outside of which it has no value
            self._keep(args, found)
        if capturing():
            self._captured[args] = found
        return found

    def clear(self) -> None:
        """Free all results, once no kernel reads them any more."""
        with self._lock:
            for device in {part for key in self._kept for part in _devices(key)}:
                torch.cuda.synchronize(device)
            self._kept.clear()
            self._kept.update(self._captured)

    def _make(self, *args: *Arguments) -> T:
        with torch.device("cpu"):
            made = self.__wrapped__(*args)
        for tensor in _tensors(made):
            setattr(tensor, MARK, True)
        return made

    def _keep(self, key: Any, made: T) -> None:
        # The device cannot be waited for during a capture.
        if len(self._kept) - len(self._captured) >= self._limit and not capturing():
            self.clear()
        self._kept[key] = made

    def _under_fake_mode(self, mode: Any, *args: *Arguments) -> T:
        kept: dict[Any, T] = vars(mode).setdefault(OF_FAKE_MODE, {})
        if (self, args) not in kept:
            kept[self, args] = self._make(*args)
        return kept[self, args]


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor is one of the results of `DeviceConstants`."""
    return getattr(tensor, MARK, False)


def kept_on_device(
    limit: int,
) -> Callable[[Callable[[*Arguments], T]], DeviceConstants[T, *Arguments]]:
    """Decorate a function of hashable positional arguments with `DeviceConstants`."""
    return lambda make: DeviceConstants(make, limit)


def _tensors(made: Any) -> Iterator[Tensor]:
    for part in made if isinstance(made, tuple) else (made,):
        if isinstance(part, Tensor):
            yield part


def _devices(arguments: tuple[Any, ...]) -> Iterator[torch.device]:
    """The CUDA devices among the arguments of a call."""
    for part in arguments:
        if isinstance(part, torch.device) and part.type == "cuda":
            yield part


def capturing() -> bool:
    """Whether kernels that are launched now are captured in a CUDA graph."""
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # PyTorch's has no types
    return initialized and torch.cuda.is_current_stream_capturing()
