"""A dispatch mode that keeps the names of the operators that PyTorch calls."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorsAreSeen(TorchDispatchMode):
    """A dispatch mode, under which cells are run step by step by `hwnas::mixed_cell`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))
