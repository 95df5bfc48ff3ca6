"""Images of any dataset as targets of latent vectors, and what cannot be generated."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.data import load_dataset
from hwnas.errors import InputError


def test_images_become_the_targets_of_standard_normal_vectors() -> None:
    images, generated = load_dataset(test_limit=50), load_dataset(latents=3, test_limit=50)
    np.testing.assert_array_equal(generated.train.targets, images.train.inputs)
    np.testing.assert_array_equal(generated.test.targets, images.test.inputs)
    latents = generated.train.inputs
    assert (generated.task, latents.shape) == ("image-generation", (12_000, 3, 1, 1))
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(latents[:, :, 0, 0].T), np.eye(3), atol=0.05)
    assert generated.classes == ("grey",)


def test_latent_vectors_are_not_normalised() -> None:
    data = load_dataset(latents=3, train_limit=20, test_limit=20)
    np.testing.assert_array_equal(data.normalise(data.test.inputs).numpy(), data.test.inputs)
    assert (data.mean, data.std) == ((0.0,) * 3, (1.0,) * 3)


def test_other_images_than_those_of_8_bits_are_refused(tmp_path) -> None:
    path, labels = tmp_path / "deep.npz", np.array([0, 1] * 5)
    images = np.random.default_rng(0).random((10, 3, 8, 8)).astype(np.float32)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(InputError, match=r"deep.npz: latents.*8 bits.*uint8.*float32"):
        load_dataset("npz", str(path), latents=4, channels="first")
    rows = np.random.default_rng(0).random((10, 3))
    np.savez(path, x_train=rows, y_train=labels, x_test=rows, y_test=labels)
    with pytest.raises(InputError, match="table classification"):
        load_dataset("npz", str(path), latents=4)


def test_data_that_are_no_images_have_no_such_option() -> None:
    with pytest.raises(InputError, match="no option latents.*fashion-mnist-slice"):
        load_dataset("generated-text", latents=4)
