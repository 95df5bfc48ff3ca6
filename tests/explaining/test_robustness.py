"""Disturbed samples: what is done to them, and that type and shape stay."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.data import Dataset, Split
from hwnas.data.text import UNKNOWN_TOKEN
from hwnas.explaining.robustness import Disturbance, disturbances, disturbed


def images(dtype: str = "uint8") -> Dataset:
    rng = np.random.default_rng(0)
    largest = {"uint8": 255, "uint16": 65535}[dtype]
    pixels = rng.integers(largest // 4, largest // 2, (8, 3, 12, 10)).astype(dtype)
    split = Split(pixels, np.arange(8) % 2)
    return Dataset("images", ("a", "b"), split, split)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_strengths_are_shares_of_the_range(dtype: str) -> None:
    dataset = images(dtype)
    inputs, largest = dataset.test.inputs, float(np.iinfo(dtype).max)
    kinds = {one.kind for one in disturbances(dataset)}
    assert kinds == {"noise", "blur", "brighter", "darker", "shift"}
    for one in disturbances(dataset):
        found = disturbed(inputs, dataset, one)
        assert (found.dtype, found.shape) == (inputs.dtype, inputs.shape)
        change = (found.astype(float) - inputs) / largest
        if one.kind == "noise":
            assert change.std() == pytest.approx(one.strength, rel=0.1)
        if one.kind in ("brighter", "darker") and one.strength < 0.25:
            sign = 1 if one.kind == "brighter" else -1
            assert np.abs(change - sign * one.strength).max() <= 0.5 / largest + 1e-6
        if one.kind == "blur":
            assert found.std() < inputs.std()
            assert found.mean() == pytest.approx(inputs.mean(), rel=0.02)


def test_images_are_shifted_in_four_directions() -> None:
    dataset = images()
    inputs = dataset.test.inputs
    found = disturbed(inputs, dataset, Disturbance("shift", 2.0, "pixels"))
    right, down, left, up = found[:4]
    np.testing.assert_array_equal(right[:, :, 2:], inputs[0][:, :, :-2])
    np.testing.assert_array_equal(right[:, :, 0], inputs[0][:, :, 0])
    np.testing.assert_array_equal(down[:, 2:], inputs[1][:, :-2])
    np.testing.assert_array_equal(left[:, :, :-2], inputs[2][:, :, 2:])
    np.testing.assert_array_equal(up[:, :-2], inputs[3][:, 2:])


def test_words_are_replaced_and_padding_is_not() -> None:
    tokens = np.where(np.arange(40) < 30, 5, 0)[None].repeat(50, axis=0)
    split = Split(tokens, np.arange(50) % 2)
    dataset = Dataset("texts", ("a", "b"), split, split, vocabulary=tuple("abcdefgh"))
    for one in disturbances(dataset):
        found = disturbed(tokens, dataset, one)
        assert (found[:, 30:] == 0).all()
        share = (found[:, :30] == UNKNOWN_TOKEN).mean()
        assert share == pytest.approx(one.strength, abs=0.05)


def test_features_get_noise_in_units_of_their_deviation() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(400, 2, 1, 1)) * np.array([1.0, 50.0])[:, None, None]).astype("f4")
    split = Split(values, np.arange(400) % 2)
    dataset = Dataset("table", ("a", "b"), split, split)
    found = disturbed(values, dataset, Disturbance("noise", 0.3, "standard deviations"))
    noise = (found - values).std(axis=0).ravel() / values.std(axis=0).ravel()
    np.testing.assert_allclose(noise, 0.3, rtol=0.1)
