"""A memory pool for activations on CPUs.

A step of a search allocates and frees hundreds of megabytes of activations. The C library's
allocator returns most of them to the operating system, which has to map and clear every page again
on its next use; that takes longer than some of the kernels. This pool keeps a freed block and uses
it for the next tensor of the same size.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_BYTES = 2**17
"""Smaller tensors come from the C library's heap, which reuses their memory anyway."""

SPARE = 1.25
"""Limit of the pool's size when it allocates, as a multiple of the most that was in use at once."""


class MemoryPool:
    """Blocks of memory, each reused for tensors of its own size.

    Before a new block is allocated, the blocks that have been idle for longest are freed until all
    blocks together take at most `SPARE` times `peak_bytes`.

    Attributes:
        idle_bytes: size of the blocks that hold no tensor.
        used_bytes: size of the blocks that hold one.
        peak_bytes: the largest `used_bytes` so far.
    """

    def __init__(self) -> None:
        self._idle: list[Tensor] = []
        # A tensor may be freed in any thread, also by the garbage collector inside a method.
        self._lock = threading.RLock()
        self.idle_bytes = 0
        self.used_bytes = 0
        self.peak_bytes = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor, aligned like PyTorch's own."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST_BYTES:
            return torch.empty(tuple(shape), dtype=dtype)
        with self._lock:
            block = self._take(size)
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        # Only the tensor's storage refers to this array, so both are freed at the same time.
        array = block.numpy()
        weakref.finalize(array, self._release, block).atexit = False
        return torch.from_numpy(array).view(dtype).view(tuple(shape))

    def _take(self, size: int) -> Tensor:
        """An idle or a new block of `size` bytes."""
        for index in reversed(range(len(self._idle))):
            if self._idle[index].numel() == size:
                self.idle_bytes -= size
                return self._idle.pop(index)
        needed = self.used_bytes + size
        limit = SPARE * max(self.peak_bytes, needed)
        while self._idle and needed + self.idle_bytes > limit:
            self.idle_bytes -= self._idle.pop(0).numel()
        return torch.empty(size, dtype=torch.uint8)

    def release_idle(self) -> None:
        """Free all idle blocks."""
        with self._lock:
            self._idle.clear()
            self.idle_bytes = 0
            self.peak_bytes = self.used_bytes

    def _release(self, block: Tensor) -> None:
        """Make a block idle whose tensor has been freed."""
        with self._lock:
            self.used_bytes -= block.numel()
            self.idle_bytes += block.numel()
            self._idle.append(block)


MEMORY = MemoryPool()
"""The pool of all activations on CPUs."""


def release_memory() -> None:
    """Free the memory that the kernels keep for later calls, for example after a search."""
    MEMORY.release_idle()
