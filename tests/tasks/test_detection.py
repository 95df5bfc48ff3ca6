"""Detection: decoding of the outputs, the loss against a reference, exact and wrong outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hwnas.data import Dataset, Split
from hwnas.tasks import task_of
from hwnas.tasks.detection import Detection

# class, left, top, right, bottom; the second image has one object.
BOXES = np.array(
    [
        [[0, 1, 2, 9, 6], [2, 16, 8, 30, 15], [1, 0, 12, 4, 16]],
        [[1, 8, 4, 24, 12], [-1, -1, -1, -1, -1], [-1, -1, -1, -1, -1]],
    ],
    np.float32,
)
CELL = 4
HEIGHT, WIDTH = 16, 32


@pytest.fixture
def detection() -> Detection:
    inputs = np.arange(2 * HEIGHT * WIDTH, dtype=np.uint8).reshape(2, 1, HEIGHT, WIDTH)
    split = Split(inputs, BOXES)
    found = task_of(Dataset("made up", ("a", "b", "c"), split, split, "detection"))
    assert isinstance(found, Detection)
    return found


def perfect_outputs() -> torch.Tensor:
    """Encode `BOXES` as maps (2, 7, 4, 8) by a loop over the definition."""
    maps = np.zeros((2, 7, HEIGHT // CELL, WIDTH // CELL), np.float32)
    maps[:, :3] = -12
    for image, objects in zip(maps, BOXES, strict=True):
        for class_, left, top, right, bottom in objects:
            if class_ >= 0:
                x, y = (left + right) / 2 / CELL, (top + bottom) / 2 / CELL
                row, column = int(y), int(x)
                image[int(class_), row, column] = 12
                sizes = [math.log((right - left) / CELL), math.log((bottom - top) / CELL)]
                image[3:, row, column] = [x - column - 0.5, y - row - 0.5, *sizes]
    return torch.from_numpy(maps)


def test_perfect_outputs_have_no_loss_and_full_precision(detection) -> None:
    outputs, targets = perfect_outputs(), torch.from_numpy(BOXES)
    assert detection.loss(outputs, targets).item() < 1e-4
    metrics = detection.metrics([(outputs, targets)])
    assert metrics["mean_average_precision"] == 1
    assert [row["n"] for row in metrics["per_class"]] == [1, 2, 1]


def test_decoding_perfect_outputs_gives_the_boxes(detection) -> None:
    first, _ = detection.detections(perfect_outputs())
    order = np.argsort(first.classes[:3])
    np.testing.assert_allclose(first.boxes[:3][order], BOXES[0][[0, 2, 1], 1:], atol=1e-4)
    assert first.scores[:3].min() > 0.99
    assert (first.scores[3:] < 0.01).all()


def test_shifted_boxes_lose_precision(detection) -> None:
    outputs, targets = perfect_outputs(), torch.from_numpy(BOXES)
    outputs[:, 3] += 0.5
    metrics = detection.metrics([(outputs, targets)])
    assert metrics["mean_average_precision"] < 0.9
    assert detection.loss(outputs, targets).item() > 0.2


def test_loss_matches_its_definition(detection, rng) -> None:
    outputs = rng.standard_normal((2, 7, HEIGHT // CELL, WIDTH // CELL))
    wanted = perfect_outputs().numpy()
    present = wanted[:, :3] > 0
    chance = 1 / (1 + np.exp(-outputs[:, :3]))
    focal = np.where(
        present,
        -0.25 * (1 - chance) ** 2 * np.log(chance),
        -0.75 * chance**2 * np.log(1 - chance),
    ).sum()
    images, _, rows, columns = np.nonzero(present)
    distance = np.abs((outputs - wanted)[images, 3:, rows, columns]).sum()
    found = detection.loss(torch.from_numpy(outputs), torch.from_numpy(BOXES)).item()
    assert found == pytest.approx((focal + 0.5 * distance) / 4, rel=1e-5)


def test_images_without_objects_have_a_loss(detection) -> None:
    nothing = torch.full((2, 3, 5), -1.0)
    outputs = perfect_outputs()
    assert detection.loss(outputs, nothing).item() > 1
    assert detection.metrics([(outputs, nothing)])["mean_average_precision"] == 0
