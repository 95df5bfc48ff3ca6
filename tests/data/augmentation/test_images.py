"""Every augmentation against its definition."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.data import Augmentation


def test_crop_takes_every_window_of_the_padded_image() -> None:
    image = torch.rand(2, 5, 4) + 1
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
    windows = {
        padded[:, top : top + 5, left : left + 4].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    images = image.expand(600, -1, -1, -1)
    result = Augmentation(crop_padding=2).apply(images, np.random.default_rng(0))
    seen = [windows[np.ascontiguousarray(crop).tobytes()] for crop in result.numpy()]
    assert set(seen) == set(windows.values())
    assert max(seen.count(window) for window in windows.values()) < 60  # 24 expected


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(400, 2, 3, 4)
    result = Augmentation(flip=True).apply(images, np.random.default_rng(0))
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


@settings(max_examples=30, deadline=None)
@given(side=st.integers(1, 6), height=st.integers(7, 10), width=st.integers(7, 10))
def test_cutout_zeroes_one_clipped_square(side: int, height: int, width: int) -> None:
    images = torch.rand(200, 3, height, width) + 1
    result = Augmentation(cutout=side).apply(images, np.random.default_rng(side))
    areas = []
    for before, after in zip(images.numpy(), result.numpy(), strict=True):
        rows, columns = np.nonzero(after[0] == 0)
        hole = np.zeros((height, width), bool)
        hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        np.testing.assert_array_equal(after, np.where(hole, 0, before))
        assert np.ptp(rows) < side
        assert np.ptp(columns) < side
        areas.append(hole.sum())
    assert max(areas) == side * side
    if side > 1:
        assert min(areas) < side * side  # clipped at the border


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(Augmentation().apply(images, np.random.default_rng(0)), images)


def test_random_erasing_fills_one_rectangle_of_the_stated_area_with_noise() -> None:
    images = torch.full((400, 2, 20, 24), 9.0)
    result = Augmentation(random_erasing=0.5).apply(images, np.random.default_rng(0)).numpy()
    holes = (result != 9).any(axis=1)
    is_erased = holes.any(axis=(1, 2))
    assert 150 < is_erased.sum() < 250
    values = []
    for hole, image in zip(holes[is_erased], result[is_erased], strict=True):
        rows, columns = np.nonzero(hole)
        box = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert hole.sum() == box[0] * box[1]
        assert 0.005 < hole.mean() < 0.4  # of 0.02 to 0.33, rounded to whole pixels
        values.append(image[:, hole].ravel())
    noise = np.concatenate(values)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_operations_of_randaugment_are_what_they_are_called() -> None:
    """Of many copies some meet one operation beside the identity, each of known effect."""
    image = torch.rand(1, 10, 10, dtype=torch.float64) + 1
    result = Augmentation(rand_augment=30).apply(
        image.expand(800, -1, -1, -1), np.random.default_rng(0)
    )
    mean = image.mean()
    shifted = torch.zeros_like(image)
    shifted[..., :7] = image[..., 3:]  # 0.3 sides to the left
    lower = torch.zeros_like(image)
    lower[:, 3:] = image[:, :7]
    expected = {
        "identity": image,
        "brighter": image + 1,
        "darker": image - 1,
        "more contrast": mean + 1.9 * (image - mean),
        "less contrast": mean + 0.1 * (image - mean),
        "moved to the left": shifted,
        "moved down": lower,
    }
    for name, wanted in expected.items():
        distances = (result - wanted).abs().flatten(1).amax(1)
        found = int((distances < 1e-6).sum())
        assert 1 <= found < 40, name  # 5 expected, 10 of the identity
    assert torch.isfinite(result).all()


def test_randaugment_of_a_rotated_disc_is_the_disc() -> None:
    """A centred disc shows that rotations keep the centre and the aspect of wide images."""
    y, x = np.mgrid[:31, :61]
    disc = np.exp(-((y - 15) ** 2 + (x - 30) ** 2) / 40.0)
    images = torch.from_numpy(disc)[None, None].expand(300, -1, -1, -1)
    result = Augmentation(rand_augment=30).apply(images, np.random.default_rng(1))
    distances = (result - images).abs().flatten(1).amax(1)
    changed_a_little = ((distances > 1e-9) & (distances < 0.02)).sum()
    assert changed_a_little > 2  # interpolation of a rotation; 7 expected
