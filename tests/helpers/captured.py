"""What a CUDA graph does, without a GPU: the same launches again, on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hwnas.kernels.triton.launch import TritonLauncher
from hwnas.kernels.triton.program import Program


class Captured(TorchDispatchMode):
    """Notes operators and Triton kernels, and runs them again on the tensors that they ran on.

    Like a graph it keeps numbers and addresses as they were, but not the values of tensors.

    Attributes:
        paused: whether a Triton kernel is running; the interpreter calls PyTorch operators too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        views = any(a.alias_info and not a.alias_info.is_write for a in function._schema.arguments)
        views = views or torch.Tag.inplace_view in function.tags
        allocates = function._schema.name.startswith(("aten::empty", "aten::new_empty"))
        if not self.paused and not views and not allocates:
            self._calls.append((function, args, kwargs or {}, _tensors(result)))
        return result

    def launch(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Note a launch, or those of a program, and make it."""
        self.paused = True
        make(*arguments, **options)
        self.paused = False
        self._calls.append((make, arguments, options, []))

    def functions(self) -> list[OpOverload]:
        """The operators among what was noted."""
        return [call[0] for call in self._calls if isinstance(call[0], OpOverload)]

    def replay(self) -> None:
        """Run everything again; results are written where they were before."""
        for function, args, kwargs, outputs in self._calls:
            result = function(*args, **kwargs)
            for target, value in zip(outputs, _tensors(result), strict=False):
                if target is not value:
                    target.view(value.shape).copy_(value)


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


@contextmanager
def capture() -> Iterator[Captured]:
    """Capture what runs inside."""
    captured = Captured()

    def noted(make: Callable[..., Any]) -> Callable[..., None]:
        return lambda *arguments, **options: captured.launch(make, *arguments, **options)

    with (
        mock.patch.object(TritonLauncher, "_launch", noted(TritonLauncher._launch)),
        mock.patch.object(Program, "run", noted(Program.run)),
        captured,
    ):
        yield captured
