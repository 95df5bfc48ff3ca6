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
