"""Generated shapes: the targets match the visible shapes."""

from __future__ import annotations

import numpy as np
from helpers.data_files import refusal

from hwnas.data import load_dataset


def test_segmentation_targets_separate_shapes_from_a_background_of_one_colour() -> None:
    data = load_dataset("generated-segmentation", train_limit=300, test_limit=50)
    assert data.input_shape == (3, 32, 32)
    assert data.train.targets.shape == (300, 32, 32)
    assert data.classes[0] == "background"
    shares = np.bincount(data.train.targets.ravel(), minlength=4) / data.train.targets.size
    assert shares[0] > 0.5
    assert shares[1:].min() > 0.03
    for image, classes in zip(data.train.inputs[:50], data.train.targets[:50], strict=True):
        background = image[:, classes == 0].astype(float)
        # The background has one colour, so its pixels vary by the noise alone.
        assert background.std(axis=1).max() < 16


def test_boxes_enclose_the_segmented_shapes_tightly() -> None:
    """Both tasks have the same images, and every side of a box touches a pixel of its class."""
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


def test_generated_images_depend_on_the_image_size_and_not_on_the_seed() -> None:
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
