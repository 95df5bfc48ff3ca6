"""The Fréchet distance against SciPy and closed forms, and what its features tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from hwnas.data import load_dataset
from hwnas.tasks.frechet import WIDTHS, Features, frechet_distance, total_variance


def drawn(seed: int, count: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def test_the_distance_is_that_of_scipy_s_matrix_root() -> None:
    first, second = drawn(0, 50, 5), drawn(1, 40, 5)
    one, two = (np.cov(x.T, bias=True) for x in (first, second))
    root = sqrtm(one @ two).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one + two - 2 * root)
    found = frechet_distance(torch.from_numpy(first), torch.from_numpy(second))
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_normal_numbers_has_a_closed_form() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2 in one dimension."""
    values = torch.from_numpy(drawn(4, 100, 1))
    moved = 3 * values + 7
    expected = float((moved.mean() - values.mean()) ** 2 + (2 * values.std(correction=0)) ** 2)
    assert frechet_distance(values, moved) == pytest.approx(expected)


def test_fewer_samples_than_features_have_a_distance_too() -> None:
    few = torch.from_numpy(drawn(5, 3, 20))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    one = few[:1]
    centre = few.mean(dim=0, keepdim=True)
    assert frechet_distance(one, few) >= frechet_distance(centre, few)
    assert frechet_distance(centre, few) == pytest.approx(total_variance(few))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    data = load_dataset(train_limit=1600, test_limit=1)
    return torch.from_numpy(data.train.inputs).float() / 255


def test_features_are_decorrelated_by_the_real_images(images) -> None:
    found = Features(images)(images)
    covariance = torch.cov(found.T, correction=0)
    assert found.shape == (len(images), 4 * WIDTHS[-1])
    torch.testing.assert_close(found.mean(dim=0), torch.zeros_like(found[0]), atol=1e-9, rtol=0)
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-9, rtol=0)
    assert float(variances.max()) == pytest.approx(1 / 1.01)


def test_features_are_the_same_each_time_and_those_of_other_channels(images) -> None:
    assert torch.equal(Features(images[:50])(images[:5]), Features(images[:50])(images[:5]))
    colours = images[:50].repeat(1, 3, 1, 1)
    assert Features(colours)(colours).shape == (50, 4 * WIDTHS[-1])


def test_the_distance_grows_with_noise_blur_and_lost_variety(images) -> None:
    features = Features(images[:800])
    real, other = features(images[:800]), images[800:]
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(other.shape, generator=rng)
    pool = torch.nn.functional.avg_pool2d
    worse = {
        "noise": [(other + s * noise).clamp(0, 1) for s in (0.1, 0.3)],
        "blur": [pool(other, k, 1, k // 2) for k in (3, 5)],
        "few images": [other[:n].repeat(-(-800 // n), 1, 1, 1) for n in (40, 4)],
        "dark": [s * other for s in (0.8, 0.5)],
    }
    alike = frechet_distance(features(other), real)
    for name, (little, much) in worse.items():
        distances = [alike, *(frechet_distance(features(x), real) for x in (little, much))]
        assert distances == sorted(distances), name
        assert distances[1] > 1.5 * alike, name
