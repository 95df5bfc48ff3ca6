"""Images moved together with their boxes and maps, against pixels that are moved one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.data.augmentation.scenes import VISIBLE, Movement
from hwnas.data.formats import VOID

HEIGHT, WIDTH = 12, 16


def movement(zoom: float, right: float, down: float, flip: bool) -> Movement:
    return Movement(
        torch.tensor([zoom]), torch.tensor([[float(right), float(down)]]), torch.tensor([flip])
    )


@pytest.mark.parametrize("right, down, flip", [(0, 0, True), (3, -2, False), (-1, 4, True)])
def test_shifts_and_flips_move_whole_pixels(right: int, down: int, flip: bool, rng) -> None:
    image = torch.from_numpy(rng.standard_normal((1, 2, HEIGHT, WIDTH))).float()
    classes = torch.from_numpy(rng.integers(-1, 5, (1, HEIGHT, WIDTH)))
    move = movement(1.0, right, down, flip)
    found, moved = move.of_images(image), move.of_maps(image, classes)
    source = image.flip(3) if flip else image
    labels = classes.flip(2) if flip else classes
    for row in range(HEIGHT):
        for column in range(WIDTH):
            y, x = row - down, column - right
            is_inside = 0 <= y < HEIGHT and 0 <= x < WIDTH
            expected = source[0, :, y, x] if is_inside else torch.zeros(2)
            torch.testing.assert_close(found[0, :, row, column], expected, atol=1e-5, rtol=0)
            assert moved[0, row, column] == (labels[0, y, x] if is_inside else VOID)


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_boxes_stay_around_their_objects(zoom: float, flip: bool) -> None:
    """The object is a bright rectangle of its own class in the map."""
    left, top, right, bottom = 5, 3, 9, 7
    image = torch.zeros(1, 1, HEIGHT, WIDTH)
    image[0, 0, top:bottom, left:right] = 1
    boxes = torch.tensor([[[2.0, left, top, right, bottom], [-1.0, 0, 0, 0, 0]]])
    move = movement(zoom, 1, 1, flip)
    moved, found = move.of_images(image)[0, 0], move.of_boxes(image, boxes)
    rows, columns = np.nonzero(moved.numpy() > 0.5)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found[0, 0, 0] == 2
    assert found[0, 1, 0] == -1
    assert np.abs(found[0, 0, 1:].numpy() - expected).max() <= 1
    corners = np.array([left, top, right, bottom], float)
    if flip:
        corners = np.array([WIDTH - right, top, WIDTH - left, bottom], float)
    centre = np.array([WIDTH, HEIGHT] * 2) / 2
    exact = np.clip((corners - centre) * zoom + centre + 1, 0, [WIDTH, HEIGHT] * 2)
    assert found[0, 0, 1:].numpy() == pytest.approx(exact)
    mask = (image[0] > 0).long()
    rows, columns = np.nonzero(move.of_maps(image, mask)[0].numpy() == 1)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(seen - exact).max() <= 1


def test_objects_that_leave_the_image_are_no_targets() -> None:
    image = torch.zeros(1, 1, HEIGHT, WIDTH)
    boxes = torch.tensor([[[0.0, 0, 0, 4, 4], [1.0, 8, 4, 12, 8]]])
    for right in range(-4, 1):
        found = movement(1.0, right, 0, False).of_boxes(image, boxes)[0]
        visible = (4 + right) / 4
        assert (found[0, 0] == 0) == (visible >= VISIBLE)
        assert found[1].tolist() == [1, 8 + right, 4, 12 + right, 8]


def test_drawn_movements_reach_their_limits() -> None:
    images = torch.zeros(2000, 1, HEIGHT, WIDTH)
    move = Movement.drawn(images, 0.25, 2, True, np.random.default_rng(0))
    assert (float(move.zoom.min()), float(move.zoom.max())) == pytest.approx((0.75, 1.25), abs=0.01)
    room = (move.zoom - 1).abs()[:, None] * torch.tensor([WIDTH, HEIGHT]) / 2
    assert (move.shift.abs() <= 2 + room + 1e-4).all()
    assert 900 < int(move.is_flipped.sum()) < 1100
