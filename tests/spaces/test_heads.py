"""Dense heads, and the error messages of spaces that cannot have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.spaces import SPACES, build_space

SIZES = {"input_channels": 3, "height": 16, "width": 24, "classes": 5}


@pytest.mark.parametrize("head", ["dense", "upsampled"])
@pytest.mark.parametrize("name", ["darts", "mbconv"])
def test_dense_heads_have_an_output_for_each_position(name: str, head: str, rng) -> None:
    space = tiny_space(name, **SIZES, head=head)
    x = torch.randn(2, 3, 16, 24)
    network = space.network(space.sample(rng)).eval()
    outputs = network(x)
    assert network.auxiliary is None
    assert outputs.shape[:2] == (2, 5)
    if head == "upsampled":
        assert outputs.shape[2:] == x.shape[2:]
    else:
        assert outputs.shape[2:] == tuple(size // (16 // outputs.shape[2]) for size in (16, 24))
    mixture = space.one_hot(space.sample(rng))
    assert space.supernet()(x, mixture).shape == outputs.shape
    (last,) = [spec for spec in space.fixed_operators() if spec.name.startswith((head, "dense"))]
    assert last.c_out == 5


def test_features_that_cannot_be_enlarged_are_refused() -> None:
    with pytest.raises(InputError, match="18 x 24, one of"):
        tiny_space("mbconv", **SIZES | {"height": 18}, head="upsampled")
    with pytest.raises(InputError, match="24 x 24, one of"):
        build_space("mbconv", {"height": 24, "width": 24, "head": "upsampled"})


@pytest.mark.parametrize("name", sorted(SPACES))
def test_unsupported_heads_and_inputs_are_refused(name: str) -> None:
    for head in ("dense", "upsampled"):
        if head not in SPACES[name].heads:
            with pytest.raises(InputError, match="space.head"):
                tiny_space(name, **SIZES, head=head)
    if not SPACES[name].reads_tokens:
        with pytest.raises(InputError, match="space.vocabulary"):
            tiny_space(name, **SIZES, vocabulary=7)


@pytest.mark.parametrize("factor", [1, 4])
def test_upsampling_interpolates_between_pixel_centres(factor: int) -> None:
    """Against interpolation of each axis by numpy."""
    head = build(OpSpec(f"upsampled_x{factor}", 3, 2, 4, 5))
    x = torch.randn(1, 3, 4, 5)
    found = head(x)[0].detach().numpy()
    small = head.dense(x)[0].detach().numpy()

    def along(values: np.ndarray, size: int) -> np.ndarray:
        places = (np.arange(size * factor) + 0.5) / factor - 0.5
        return np.interp(places, np.arange(size), values)

    rows = np.apply_along_axis(along, 1, small, 4)
    np.testing.assert_allclose(found, np.apply_along_axis(along, 2, rows, 5), atol=1e-5)
