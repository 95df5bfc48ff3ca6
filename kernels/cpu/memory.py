"""A memory pool for activations on CPUs.

A step of a search allocates and frees hundreds of megabytes of activations. The C library's
allocator returns most of them to the operating system, which has to map and clear every page again
on its next use; that takes longer than some of the kernels. This pool keeps a freed block and uses
it for the next tensor of the same size.

The storage of a tensor from the pool cannot be resized: PyTorch raises an error.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_BYTES = 2**17
"""Smaller tensors come from the C library's heap, which reuses their memory anyway."""

SPARE = 1.25
"""Limit of the pool's size when it allocates, as a multiple of the most that was in use at once."""


PERIOD = 4096
"""Calls of `MemoryPool.empty` after which the pool looks whether it still needs what it holds.

A training step of a supernet makes hundreds of them.
"""


class MemoryPool:
    """Blocks of memory, each reused for tensors of its own size.

    Before a new block is allocated, the blocks that have been idle for longest are freed until all
    blocks together take at most `SPARE` times `peak_bytes`. The same is done at the end of each
    period of calls, so that a pool that is used less than before becomes smaller.

    Args:
        period: number of calls of `empty` in a period.

    Attributes:
        idle_bytes: size of the blocks that hold no tensor.
        used_bytes: size of the blocks that hold one.
        peak_bytes: the largest `used_bytes` of this period and of the one before it.
    """

    def __init__(self, period: int = PERIOD) -> None:
        self._period = period
        self._calls = 0
        self._peak_of_period = 0
        self._idle: list[Tensor] = []
        # A tensor may be freed in any thread, also by the garbage collector inside a method.
        self._lock = threading.RLock()
        self.idle_bytes = 0
        self.used_bytes = 0
        self.peak_bytes = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor, aligned like PyTorch's own."""
        size = math.prod(shape) * dtype.itemsize
        self._calls += 1
        if self._calls >= self._period:
            self._end_period()
        if size < SMALLEST_BYTES:
            return torch.empty(tuple(shape), dtype=dtype, device="cpu")
        with self._lock:
            block = self._take(size)
            self.used_bytes += size
            self._peak_of_period = max(self._peak_of_period, self.used_bytes)
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
        self._free_until(self.used_bytes + size)
        return torch.empty(size, dtype=torch.uint8, device="cpu")

    def _free_until(self, needed: int) -> bool:
        """Free idle blocks until the pool is small enough for `needed` bytes in use.

        Returns:
            Whether any block has been freed.
        """
        before = len(self._idle)
        limit = SPARE * max(self.peak_bytes, needed)
        while self._idle and needed + self.idle_bytes > limit:
            self.idle_bytes -= self._idle.pop(0).numel()
        return len(self._idle) < before

    def _end_period(self) -> None:
        """Forget the peak of the period before this one, and free what is not needed any more."""
        with self._lock:
            if self._calls < self._period:  # another thread has ended it
                return
            self._calls = 0
            self.peak_bytes = max(self._peak_of_period, self.used_bytes)
            self._peak_of_period = self.used_bytes
            freed = self._free_until(self.used_bytes)
        if freed:
            return_free_memory()

    def release_idle(self) -> None:
        """Free all idle blocks, and return free memory to the operating system."""
        with self._lock:
            self._idle.clear()
            self.idle_bytes = 0
            self.peak_bytes = self._peak_of_period = self.used_bytes
        return_free_memory()

    def _release(self, block: Tensor) -> None:
        """Make a block idle whose tensor has been freed."""
        with self._lock:
            self.used_bytes -= block.numel()
            self.idle_bytes += block.numel()
            self._idle.append(block)


MEMORY = MemoryPool()
"""The pool of all activations on CPUs."""


def release_memory() -> None:
    """Return the memory that the kernels keep for later calls, for example after a search.

    It goes back to the operating system where the C library is glibc; other C libraries decide on
    their own what they return of the memory that is freed.
    """
    MEMORY.release_idle()


def return_free_memory() -> None:
    """Make glibc return the pages of freed memory; it keeps blocks below 32 MiB otherwise."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
