"""Normalisation: moments, and the same results in training and inside an exported network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.data_files import refusal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from hwnas.data.normalisation import LARGEST, Normalisation, Preprocessed, moments_of


def raw_inputs(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == "float32":
        return (1e4 + 300 * rng.standard_normal(shape)).astype(np.float32)
    return rng.integers(0, LARGEST[dtype] + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", LARGEST)
def test_a_network_that_normalises_itself_gives_the_same_outputs(dtype: str) -> None:
    inputs = raw_inputs(dtype, (4, 3, 5, 6))
    mean, std = (tuple(moment.tolist()) for moment in moments_of(inputs))
    normalisation = Normalisation(dtype, mean, std)
    network = nn.Conv2d(3, 2, 3)
    expected = network(normalisation.apply(inputs))
    found = Preprocessed(network, normalisation)(torch.from_numpy(inputs))
    assert torch.allclose(found, expected, atol=1e-6)
    exact = Preprocessed(nn.Identity(), normalisation)(torch.from_numpy(inputs))
    assert torch.equal(exact, normalisation.apply(inputs))


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32]),
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=4),
        elements=st.integers(0, 255),
    )
)
def test_moments_match_those_in_float64(inputs: np.ndarray) -> None:
    scaled = inputs.astype(np.float64) / LARGEST[inputs.dtype.name]
    mean, std = moments_of(inputs)
    # Those of images are rounded.
    tolerance = {"uint8": 5.1e-5, "uint16": 5.1e-9, "float32": 1e-9}[inputs.dtype.name]
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=tolerance, rel=1e-9)
    assert std == pytest.approx(scaled.std(axis=(0, 2, 3)), abs=tolerance, rel=1e-9)


def test_moments_of_many_values_far_from_zero_are_exact() -> None:
    inputs = np.full((3, 1, 2000, 1000), 1e7, np.float32)
    inputs[1] += 2
    mean, std = moments_of(inputs)
    assert mean == pytest.approx([1e7 + 2 / 3], rel=1e-12)
    assert std == pytest.approx([8**0.5 / 3], rel=1e-6)


def test_other_inputs_are_refused() -> None:
    normalisation = Normalisation("uint8", (0.5, 0.5), (0.2, 0.2))
    for shape, dtype in (((2, 3, 4, 4), "uint8"), ((2, 2, 4, 4), "uint16"), ((2, 4, 4), "uint8")):
        assert "(N, 2, H, W) uint8" in refusal(normalisation.apply, raw_inputs(dtype, shape))
