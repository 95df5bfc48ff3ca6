"""A block of the memory pool is reused when, and only when, no tensor is left in it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from hwnas.kernels.cpu.memory import SMALLEST_BYTES, MemoryPool

SIDE = 256


@pytest.fixture
def pool() -> MemoryPool:
    return MemoryPool()


def block(pool: MemoryPool, rows: int = SIDE) -> torch.Tensor:
    return pool.empty((rows, SIDE), torch.float32)


def test_a_tensor_of_the_pool_behaves_like_any_other(pool) -> None:
    x = pool.empty((3, 64, 1024), torch.float64)
    assert x.shape == (3, 64, 1024)
    assert x.dtype == torch.float64
    assert x.is_contiguous()
    assert x.data_ptr() % 64 == 0
    x.normal_()
    (x.requires_grad_() ** 2).sum().backward()
    assert torch.equal(x.grad, 2 * x)


def test_memory_is_reused_after_the_last_view_is_freed(pool) -> None:
    x = block(pool)
    at, view = x.data_ptr(), x[3:5]
    del x
    assert block(pool).data_ptr() != at
    del view
    assert block(pool).data_ptr() == at


def test_live_tensors_share_no_memory(pool) -> None:
    tensors = [block(pool).fill_(i) for i in range(5)]
    del tensors[2]
    tensors.append(block(pool).fill_(9))
    assert [t.unique().tolist() for t in tensors] == [[0], [1], [3], [4], [9]]


def test_tensors_saved_for_backward_stay_in_use(pool) -> None:
    x = torch.ones(SIDE, SIDE, requires_grad=True)
    factor = block(pool).fill_(3.0)
    loss = (x * factor).sum()
    del factor
    assert pool.used_bytes == x.nbytes
    block(pool).zero_()
    loss.backward()
    assert x.grad is not None
    assert x.grad.unique().tolist() == [3]
    del loss
    assert pool.used_bytes == 0


def test_small_tensors_are_not_pooled(pool) -> None:
    pool.empty((SMALLEST_BYTES // 4 - 1,), torch.float32)
    assert pool.idle_bytes == pool.used_bytes == 0
    assert pool.empty((0, 7), torch.float32).shape == (0, 7)


def test_new_blocks_replace_those_that_are_idle_for_longest(pool) -> None:
    small = [block(pool) for _ in range(8)]
    size = small[0].nbytes
    del small
    assert pool.idle_bytes == pool.peak_bytes == 8 * size
    assert pool.used_bytes == 0
    large = block(pool, 3 * SIDE)
    assert pool.used_bytes == 3 * size
    assert pool.idle_bytes == 7 * size
    larger = block(pool, 9 * SIDE)
    assert pool.used_bytes == 12 * size
    assert pool.idle_bytes == 3 * size
    del large, larger
    # An idle block is reused, so that none has to be freed.
    again = block(pool, 3 * SIDE)
    assert pool.used_bytes == again.nbytes
    assert pool.idle_bytes == 12 * size


def test_idle_blocks_can_be_freed(pool) -> None:
    kept, gone = block(pool).fill_(1.0), block(pool)
    del gone
    pool.release_idle()
    assert pool.idle_bytes == 0
    assert pool.peak_bytes == pool.used_bytes == kept.nbytes
    assert kept.unique().tolist() == [1]


def test_tensors_can_be_freed_in_any_thread(pool) -> None:
    tensors = [[block(pool) for _ in range(50)] for _ in range(4)]
    threads = [threading.Thread(target=own.clear) for own in tensors]
    for thread in threads:
        thread.start()
    more = [block(pool) for _ in range(50)]
    for thread in threads:
        thread.join()
    assert len({t.data_ptr() for t in more}) == 50
    del more
    assert pool.used_bytes == 0
    assert pool.idle_bytes == sum(b.numel() for b in pool._idle)


def test_the_pool_becomes_smaller_when_it_is_used_less() -> None:
    pool = MemoryPool(period=50)
    large = [block(pool) for _ in range(40)]
    size = large[0].nbytes
    del large
    assert pool.idle_bytes == 40 * size
    for _ in range(100):
        block(pool)
    assert pool.peak_bytes == size
    assert pool.idle_bytes == size


def test_the_pool_becomes_smaller_while_only_small_tensors_are_used() -> None:
    pool = MemoryPool(period=50)
    large = [block(pool) for _ in range(40)]
    del large
    for _ in range(100):
        pool.empty((7, 7), torch.float32)
    assert pool.idle_bytes == pool.peak_bytes == 0


def test_the_pool_keeps_what_every_period_needs() -> None:
    pool = MemoryPool(period=50)
    addresses = set()
    for _ in range(10):
        tensors = [block(pool) for _ in range(20)]
        addresses |= {t.data_ptr() for t in tensors}
        del tensors
        for _ in range(10):
            pool.empty((7, 7), torch.float32)
    assert len(addresses) == 20


USE_AND_RELEASE = """
import sys
import torch
from hwnas.kernels import release_memory
from hwnas.kernels.cpu.memory import MEMORY

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

torch.from_numpy(torch.empty(1).numpy())
def use():
    # Live tensors between the blocks keep the C library from shrinking its heap by itself.
    tensors, between = [], []
    for _ in range(40):
        tensors.append(MEMORY.empty((2**20,), torch.float32).fill_(1.0))
        between.append(torch.ones(8000))
    return between

# Blocks that are larger make the C library take this size from its heap.
del (first := [torch.ones(7 * 2**20)])[:]
start = resident()
kept = use()
before = resident()
release_memory()
print(start, before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_released_memory_goes_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USE_AND_RELEASE], capture_output=True, text=True, check=True
    )
    start, before, after = map(float, done.stdout.split())
    assert before - start > 150, "the blocks take 160 MiB while the pool keeps them"
    assert after - start < 20
