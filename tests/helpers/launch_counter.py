"""Count the launches that the Triton backend would make on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.kernels.triton.launch import TritonLauncher


class LaunchCounter(TorchDispatchMode):
    """Counts Triton kernels and PyTorch operators.

    An operator counts as one launch, which holds for those that the fused cell uses. Exceptions are
    operators that only allocate memory or make views, and operators on lists of tensors: `AT_ONCE`
    gives the number of tensors that one launch handles.

    Attributes:
        kernels: number of Triton kernels.
        operators: launches of PyTorch operators by name.
        paused: whether a Triton kernel is running; the interpreter calls PyTorch operators too.
    """

    FREE = (
        "aten::empty", "aten::new_empty", "aten::lift_fresh", "aten::_local_scalar_dense",
        "aten::promote_types",
    )  # fmt: skip
    AT_ONCE = {"aten::cat": 128, "aten::_foreach_copy_": 64}

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.operators: dict[str, int] = {}
        self.paused = False

    @property
    def total(self) -> int:
        """All launches."""
        return self.kernels + sum(self.operators.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        views = any(a.alias_info and not a.alias_info.is_write for a in function._schema.arguments)
        if not self.paused and not views and not name.startswith(self.FREE):
            launches = -(-len(args[0]) // self.AT_ONCE[name]) if name in self.AT_ONCE else 1
            self.operators[name] = self.operators.get(name, 0) + launches
        return function(*args, **(kwargs or {}))


@contextmanager
def count_launches(*, run: bool = True) -> Iterator[LaunchCounter]:
    """Count the launches made inside; without `run` the kernels are counted but not run."""
    counter = LaunchCounter()
    launch = TritonLauncher._launch

    def counted(self: TritonLauncher, *arguments: Any, **options: Any) -> None:
        counter.kernels += 1
        counter.paused = True
        if run:
            launch(self, *arguments, **options)
        counter.paused = False

    with mock.patch.object(TritonLauncher, "_launch", counted), counter:
        yield counter
