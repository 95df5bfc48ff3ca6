"""Object detection datasets: the COCO format, resized boxes, malformed and hostile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.data import load_dataset

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat", "supercategory": "animal"}]


def annotation(image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    """`bbox` is left, top, width, height."""
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


ANNOTATIONS = [
    annotation(10, 3, 1, 2, 4, 3),
    annotation(10, 7, 0.5, 0, 2, 6, area=12.0, segmentation=[]),
    annotation(10, 3, 0, 0, 8, 6, iscrowd=1),
    annotation(11, 7, 6, 4, 2, 2),
]


def save_folder(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    """Save three training images, the last of which has no objects, and one test image."""
    for split, ids in (("train", (10, 11, 12)), ("test", (10,))):
        (path / split).mkdir(parents=True)
        for number in ids:
            image = Image.fromarray(pixels(size[1], size[0], 3, seed=number))
            image.save(path / split / f"{number}.png")
        content = {
            "info": {"year": 2026},
            "images": [{"id": i, "file_name": f"{i}.png", "width": size[0]} for i in ids],
            "categories": CATEGORIES,
            "annotations": [a for a in ANNOTATIONS if a["image_id"] in ids],
        }
        (path / f"{split}.json").write_text(json.dumps(content))
    return path


def test_boxes_are_read_as_corners_with_classes_in_the_order_of_ids(tmp_path: Path) -> None:
    data = load_dataset("boxes", str(save_folder(tmp_path)))
    assert (data.task, data.classes) == ("detection", ("cat", "dog"))
    assert data.input_shape == (3, 6, 8)
    none = [-1] * 5
    expected = [
        [[0, 1, 2, 5, 5], [1, 0.5, 0, 2.5, 6]],
        [[1, 6, 4, 8, 6], none],
        [none, none],
    ]
    np.testing.assert_array_equal(data.train.targets, expected)
    np.testing.assert_array_equal(data.test.targets, expected[:1])


def test_boxes_are_cropped_and_resized_with_their_images(tmp_path: Path) -> None:
    """8x6 pixels are cropped to the central 6x6, which begins at x = 1, and doubled in size."""
    save_folder(tmp_path)
    data = load_dataset("boxes", str(tmp_path), image_size=12)
    np.testing.assert_allclose(data.train.targets[0], [[0, 0, 4, 8, 10], [1, 0, 0, 3, 12]])
    np.testing.assert_allclose(data.train.targets[1, 0], [1, 10, 8, 12, 12])
    narrow = tmp_path / "narrow"
    save_folder(narrow, (16, 6))
    # The square begins at x = 5: nothing is left of the first box, and half of the third.
    data = load_dataset("boxes", str(narrow), image_size=6)
    np.testing.assert_allclose(data.train.targets[:2, 0], [[-1] * 5, [1, 1, 4, 3, 6]])


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a path of keys such as "images.0.id"."""
    *path, last = (int(k) if k.isdigit() else k for k in key.split("."))
    place: Any = content
    for step in path:
        place = place[step]
    place[last] = value


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("images", [], "images"),
        ("images.0.file_name", "../secret.png", "outside its folder"),
        ("images.0.file_name", "/etc/passwd", "outside its folder"),
        ("images.0.file_name", "missing.png", "missing.png"),
        ("images.1.id", 10, "appears twice"),
        ("categories.0.name", "cow", "the categories differ"),
        ("annotations.0.bbox", [1, 2, 3], "annotations.0.bbox"),
        ("annotations.0.bbox", [1, 2, 0, 3], "the box is empty"),
        ("annotations.0.bbox", [1, 2, 1e400, 3], "annotations.0.bbox"),
        ("annotations.0.bbox", [9, 2, 3, 3], "outside its image"),
        ("annotations.0.image_id", 99, "no such image"),
        ("annotations.0.category_id", 99, "no such category"),
        ("annotations.0.category_id", "3", "annotations.0.category_id"),
    ],
)
def test_malformed_annotations_are_refused(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    file = save_folder(tmp_path) / "train.json"
    content = json.loads(file.read_text())
    set_key(content, key, value)
    file.write_text(json.dumps(content))
    message = refusal(load_dataset, "boxes", str(tmp_path))
    assert message.startswith(str(tmp_path))
    assert words in message


def test_missing_and_truncated_annotation_files_are_refused(tmp_path: Path) -> None:
    file = save_folder(tmp_path) / "test.json"
    text = file.read_text()
    file.write_text(text[:-20])
    assert "COCO" in refusal(load_dataset, "boxes", str(tmp_path))
    file.unlink()
    assert "no such file" in refusal(load_dataset, "boxes", str(tmp_path))


@fuzz
@given(draw=st.data())
def test_damaged_annotation_files_load_or_are_refused(
    draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save_folder(tmp_path_factory.mktemp("boxes") / "data")
    file = path / "train.json"
    file.write_bytes(damaged(file.read_bytes(), draw))
    loads_or_is_refused("boxes", path)
