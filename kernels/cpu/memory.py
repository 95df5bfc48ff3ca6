"""Memory of activations that is used again.

A step of a search makes and drops hundreds of megabytes of activations. The C library's allocator
gives most of it back to the system, which clears and maps every page anew when it is next written
to; that takes longer than some of the kernels. Here a block outlives the tensor in it and is taken
for the next one of the same size.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_BYTES = 2**17
"""What is smaller comes from the C library's heap, where it is used again anyway."""

SPARE = 1.25


class MemoryPool:
    """Blocks of memory, each for one size.

    When a new one has to be made, those that have been idle for longest go until all together are
    at most `SPARE` times as much as was ever in use at once.

    Attributes:
        idle_bytes: of blocks that nothing is in.
        used_bytes: of the others.
        peak_bytes: the most that was in use.
    """

    def __init__(self) -> None:
        self._idle: list[Tensor] = []
        # Tensors may end in any thread, and while this one is in here.
        self._lock = threading.RLock()
        self.idle_bytes = 0
        self.used_bytes = 0
        self.peak_bytes = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor, aligned as PyTorch's are.

        Args:
            shape: its sizes.
            dtype: its type.
        """
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST_BYTES:
            return torch.empty(tuple(shape), dtype=dtype)
        with self._lock:
            block = self._taken(size)
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        # The tensor's storage holds this array, and nothing else does: its end is the tensor's.
        array = block.numpy()
        weakref.finalize(array, self._release, block).atexit = False
        return torch.from_numpy(array).view(dtype).view(tuple(shape))

    def _taken(self, size: int) -> Tensor:
        """A block of so many bytes."""
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
        """Give what nothing is in back to the system."""
        with self._lock:
            self._idle.clear()
            self.idle_bytes = 0
            self.peak_bytes = self.used_bytes

    def _release(self, block: Tensor) -> None:
        with self._lock:
            self.used_bytes -= block.numel()
            self.idle_bytes += block.numel()
            self._idle.append(block)


MEMORY = MemoryPool()
"""Of all activations on CPUs."""


def release_memory() -> None:
    """Give the memory that is kept for later calls back to the system, as after a search."""
    MEMORY.release_idle()
