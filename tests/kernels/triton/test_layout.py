"""How the Triton kernels split their work, and what they are compiled for; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

from hwnas.kernels.operator import backend_for
from hwnas.kernels.plan import Convolution, Norm
from hwnas.kernels.triton.arguments import BASES, places_of
from hwnas.kernels.triton.layout import (
    REDUCE_WAVES,
    Tile,
    divisors,
    groups_of,
    reduce_tile,
    shapes_of,
)

CPU = torch.device("cpu")


def depthwise(kernel: int, dilation: int) -> Convolution:
    return Convolution("separable", kernel, dilation, 1, (0, 1), Norm(0, None, None))


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (7, 9), (16, 28), (224, 65535)])
def test_division_by_multiplication_is_exact(height, width) -> None:
    """At both sides of every kind of multiple, up to the largest number."""
    multipliers = divisors(height, width, CPU).tolist()
    for divisor, multiplier, shift in zip((height, width), multipliers[::2], multipliers[1::2],
                                          strict=True):  # fmt: skip
        largest = (2**31 - 1) // divisor
        multiples = {
            0,
            1,
            2,
            largest // 2,
            largest - 1,
            largest,
            *range(0, largest, largest // 97 + 1),
        }
        for number in {divisor * m + e for m in multiples for e in (-1, 0, 1)} | {2**31 - 1}:
            if 0 <= number < 2**31:
                product = 2 * number * (multiplier % 2**32)
                assert (product >> 32) >> shift == number // divisor


def test_programs_fill_the_device_and_share_the_tiles() -> None:
    tile = Tile(64, 16, 4, 128)
    assert tile.resident == 4
    # 1,024 tiles; 8 x 4 x 132 programs for 17 columns are 248, of which each would take 4.1 tiles.
    assert groups_of(65536, tile, 8, 17, 132) == -(-1024 // 5)
    assert groups_of(100, tile, 8, 17, 132) == 2
    assert groups_of(65536, tile, 1, 10_000, 132) == 1


@pytest.mark.parametrize("processors", [16, 132])
def test_sums_fill_a_device_of_any_size(processors) -> None:
    """Nine terms of 65,536 pixels in 64 channels: more programs where there are more processors."""
    tile = reduce_tile(65536, 64, processors)
    assert tile.pixels == 64
    programs = 9 * groups_of(65536, tile, REDUCE_WAVES, 9, processors)
    waves = programs / (tile.resident * processors)
    assert REDUCE_WAVES - 0.6 < waves <= REDUCE_WAVES
    # Tiles are smaller where few are left for each multiprocessor.
    assert reduce_tile(64 * 4 * 100, 64, 100).pixels == 64
    assert reduce_tile(64 * 4 * 100 - 1, 64, 100).pixels == 32
    assert reduce_tile(1000, 64, 100).pixels == 16


def test_kernels_are_compiled_for_few_sets_of_shapes() -> None:
    few, all_of_darts = ((3, 1), (5, 1)), ((3, 1), (5, 1), (3, 2), (5, 2))
    assert shapes_of([depthwise(3, 1)]) == shapes_of([depthwise(5, 1)]) == few
    assert shapes_of([depthwise(5, 2), depthwise(3, 1)]) == all_of_darts
    assert shapes_of([]) == ()
    with pytest.raises(ValueError, match=r"got \[\(7, 1\)\]"):
        shapes_of([depthwise(7, 1)])


def test_places_are_few_pointers_and_their_offsets() -> None:
    one, other = torch.arange(64.0).view(4, 16), torch.zeros(2, 16)
    tensors = [one[2], other[1], one[0], one[:, :4]]
    bases, places = places_of(tensors)
    assert len(bases) == BASES
    assert [b.data_ptr() for b in bases[:2]] == [one[2].data_ptr(), other[1].data_ptr()]
    assert places[:3].tolist() == [[0, 0], [1, 0], [0, -32]]
    # What is not contiguous is copied.
    index, offset = places[3].tolist()
    assert torch.equal(bases[index].view(4, 4), one[:, :4])
    assert offset == 0


@pytest.fixture
def _own_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("_own_precision")
def test_products_are_rounded_to_tf32_where_pytorch_is_told_to() -> None:
    def precision(dtype: torch.dtype) -> str:
        return backend_for("triton", dtype).precision

    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert precision(torch.float32) == "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert precision(torch.float32) == "tf32"
    assert precision(torch.float16) == "ieee"
