"""Operators that would make the host wait for a GPU, or copy to it, found without one."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "aten::_local_scalar_dense": "reads a number",
    "aten::lift_fresh": "makes a tensor of Python numbers",
    "aten::nonzero": "has a result whose size is not known",
}

COPYING = ("aten::_to_copy", "aten::copy_")


class Watch(TorchDispatchMode):
    """Counts operators that would wait for a device or copy to it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in WAITING:
            self.found[f"{name} {WAITING[name]}"] += 1
        if name.startswith(("aten::index.", "aten::index_put")):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.found[f"{name} with a mask"] += 1
            if any(index.device != args[0].device for index in indices):
                self.found[f"{name} with indices from another device"] += 1
        result = function(*args, **(kwargs or {}))
        if name in COPYING and args[-1].device != result.device:
            self.found[f"{name} copies from {args[-1].device} to {result.device}"] += 1
        return result
