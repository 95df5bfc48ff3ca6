"""One step of a supernet search, to be timed, and its peak memory in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import build_space
from hwnas.supernet.evaluate import frozen


class SearchStep:
    """A weights step and an architecture step of a supernet of DARTS cells, first order.

    Args:
        n: batch size.
        c: channels of the first cell.
        size: side of the images.
        device: of all tensors.
        impl: of the mixed operators.
        recompute: of the mixed operators.
        storage: of the mixed operators.
        options: of the space, beside the paper's 8 cells.
    """

    def __init__(
        self,
        n: int,
        c: int,
        size: int,
        device: str,
        impl: str,
        recompute: str,
        storage: str = "exact",
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        sizes = {"cells": 8, "channels": c, "height": size, "width": size}
        space = build_space("darts", sizes | options)
        self.supernet = space.supernet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        use_kernels(self.supernet, impl, recompute, storage)
        self.weights = torch.zeros(space.mask.shape, device=device).softmax(1)
        self.optimizer = torch.optim.SGD(
            self.supernet.parameters(), lr=0.025, momentum=0.9, fused=True
        )
        self.images = torch.randn(n, 3, size, size, device=device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (n,), device=device)

    def loss(self, weights: Tensor) -> Tensor:
        return F.cross_entropy(self.supernet(self.images, Mixture(weights)), self.labels)

    def run(self) -> None:
        """Both steps."""
        weights = self.weights.clone().requires_grad_()
        with frozen(self.supernet):
            torch.autograd.grad(self.loss(weights), weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.weights).backward()
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """Memory that the forward pass of the weights step keeps, parameters left out."""
        known = {p.untyped_storage().data_ptr() for p in self.supernet.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(self.weights)
        del loss
        return sum(kept.values())


def measure_peak(
    n: int, c: int, size: int, device: str, impl: str, recompute: str, storage: str
) -> int:
    """Bytes by which two steps raise the peak, in a fresh process."""
    given = n, c, size, device, impl, recompute, storage, torch.get_num_threads()
    finished = subprocess.run(
        [sys.executable, __file__, *map(str, given)], capture_output=True, text=True, check=True
    )
    return int(finished.stdout)


def main() -> None:
    n, c, size, device, impl, recompute, storage, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # What is loaded on first use is no part of the step.
    SearchStep(2, 8, 8, device, impl, recompute, storage).run()
    step = SearchStep(int(n), int(c), int(size), device, impl, recompute, storage)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.run()
        step.run()
        print(torch.cuda.max_memory_allocated() - before)
        return
    before = resident_bytes("VmRSS")
    # The high-water mark starts again from what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    step.run()
    step.run()
    print(resident_bytes("VmHWM") - before)


def resident_bytes(field: str) -> int:
    """A field of this process's memory in Linux' accounting."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    main()
