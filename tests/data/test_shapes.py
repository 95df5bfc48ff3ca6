"""Generated shapes: the truth is what is seen."""

from __future__ import annotations

import numpy as np
from helpers.data_files import refusal

from hwnas.data import load_dataset


def test_maps_are_of_the_images_and_shapes_have_colours_of_their_own() -> None:
    data = load_dataset("generated-segmentation", train_limit=300, test_limit=50)
    assert data.input_shape == (3, 32, 32)
    assert data.train.targets.shape == (300, 32, 32)
    assert data.classes[0] == "background"
    shares = np.bincount(data.train.targets.ravel(), minlength=4) / data.train.targets.size
    assert shares[0] > 0.5
    assert shares[1:].min() > 0.03
    for image, classes in zip(data.train.inputs[:50], data.train.targets[:50], strict=True):
        background = image[:, classes == 0].astype(float)
        # Noise alone: one colour.
        assert background.std(axis=1).max() < 16


def test_boxes_are_those_of_the_segmentation() -> None:
    """Both draw the same images; each side of a box is touched by the shape that it is of."""
    maps = load_dataset("generated-segmentation")
    data = load_dataset("generated-detection")
    np.testing.assert_array_equal(maps.train.inputs, data.train.inputs)
    for classes, boxes in zip(maps.train.targets, data.train.targets.astype(int), strict=True):
        present = boxes[boxes[:, 0] >= 0]
        assert len(present)
        for kind, left, top, right, bottom in present:
            seen = classes[top:bottom, left:right] == kind + 1
            assert seen[0].any()
            assert seen[-1].any()
            assert seen[:, 0].any()
            assert seen[:, -1].any()


def test_data_are_the_same_with_every_seed_and_sizes_are_honoured() -> None:
    first, second = (load_dataset("generated-detection", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.test.targets, second.test.targets)
    assert load_dataset("generated-detection", image_size=48, test_limit=2).input_shape[1:] == (
        48,
        48,
    )
    for side in (8, 512):
        words = refusal(load_dataset, "generated-segmentation", image_size=side)
        assert "image_size" in words
        assert "16 to 128" in words
