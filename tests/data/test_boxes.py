"""Object detection datasets: the COCO format, resized boxes, malformed and hostile files."""

from __future__ import annotations

import json
import os
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


def notes_on_groups(path: Path) -> list[str]:
    """What is said of the group that both files of `save_folder` hold."""
    words = "1 object is left out as groups (iscrowd); the first is annotations.2"
    return [f"{path / file}: {words}" for file in ("train.json", "test.json")]


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


def with_keys(path: Path, split: str = "train", **values: Any) -> str:
    """Change keys of an annotation file of `save_folder`, such as images__0__width."""
    file = save_folder(path) / f"{split}.json"
    content = json.loads(file.read_text())
    for key, value in values.items():
        set_key(content, key.replace("__", "."), value)
    file.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    "bbox", [[3.65, 1.33, 1.03, 0.0], [1, 2, 0, 3], [1, 2, 0, 0], [1, 2, -1, 3], [], None]
)
def test_objects_without_area_are_left_out_and_counted(bbox: Any, tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, annotations__0__bbox=bbox))
    assert data.train.targets[0].tolist() == [[1, 0.5, 0, 2.5, 6], [-1] * 5]
    note, *groups = data.notes
    assert groups == notes_on_groups(tmp_path)
    assert note.startswith(str(tmp_path / "train.json"))
    assert "1 object is left out for a box without area" in note
    assert "annotations.0" in note


def test_files_as_published_are_read_with_a_note(tmp_path: Path) -> None:
    """COCO's train2017 has two boxes of height 0."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(pixels(32, 32, 3, seed=i)).save(tmp_path / split / f"{i}.jpg")
        annotations = [
            annotation(1, 1, 2, 2, 10, 10),
            annotation(2, 90, 0.5, 0.5, 20, 20),
        ]
        if split == "train":
            annotations.append(annotation(3, 1, 3.65, 8.33, 1.03, 0.0, iscrowd=0))
        content = {
            "images": [{"id": i + 1, "file_name": f"{i}.jpg"} for i in range(3)],
            "categories": [{"id": 1, "name": "a"}, {"id": 90, "name": "b"}],
            "annotations": annotations,
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    data = load_dataset("boxes", str(tmp_path))
    assert data.train.targets[:, 0, 0].tolist() == [0, 1, -1]
    assert len(data.notes) == 1
    for seed in range(5):
        limited = load_dataset("boxes", str(tmp_path), train_limit=2, seed=seed)
        assert limited.notes == data.notes


def test_boxes_too_small_for_float32_are_left_out(tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, annotations__0__bbox=[5, 2, 1e-9, 3]))
    assert data.train.targets[0].tolist() == [[1, 0.5, 0, 2.5, 6], [-1] * 5]
    assert "less than a quarter of the box lies in the image" in data.notes[1]


def test_boxes_that_lie_mostly_outside_are_left_out_and_counted(tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, annotations__0__bbox=[-9, -9, 24, 24]))
    assert data.train.targets[0].tolist() == [[1, 0.5, 0, 2.5, 6], [-1] * 5]
    assert "1 object is left out as less than a quarter of the box lies in" in data.notes[1]
    assert "annotations.0 of 10.png" in data.notes[1]


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("annotations__0__bbox", [-1e308, 0, 1.7e308, 1], "annotations.0.bbox.0"),
        ("categories__0__name", "cat", "boxes: two classes have the same name, got cat"),
        ("categories__1__name", "", "categories.1.name"),
    ],
)
def test_values_that_no_annotation_has_are_refused(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    folder = with_keys(tmp_path, **{key: value})
    (tmp_path / "test.json").write_text((tmp_path / "train.json").read_text())
    for number in (11, 12):
        (tmp_path / "test" / f"{number}.png").write_bytes(
            (tmp_path / "train" / f"{number}.png").read_bytes()
        )
    assert words in refusal(load_dataset, "boxes", folder)


def test_annotations_without_boxes_are_counted_in_the_refusal(tmp_path: Path) -> None:
    bare = [{"image_id": 10, "category_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5]]}]
    message = refusal(load_dataset, "boxes", with_keys(tmp_path, annotations=bare))
    assert "no objects" in message
    assert "got 1 annotations, 1 of them without a bbox" in message


def test_ids_as_floats_and_absent_crowds_are_read(tmp_path: Path) -> None:
    keys = {
        "images__0__id": 10.0,
        "categories__0__id": 7.0,
        "annotations__0__image_id": 10.0,
        "annotations__1__category_id": 7.0,
        "annotations__0__iscrowd": None,
        "annotations__1__iscrowd": 0.0,
        "annotations__2__iscrowd": True,
        "annotations__3__iscrowd": False,
    }
    expected = load_dataset("boxes", str(save_folder(tmp_path / "plain")))
    data = load_dataset("boxes", with_keys(tmp_path / "floats", **keys))
    np.testing.assert_array_equal(data.train.targets, expected.train.targets)
    assert data.classes == expected.classes
    assert data.notes == tuple(notes_on_groups(tmp_path / "floats"))
    message = refusal(load_dataset, "boxes", with_keys(tmp_path / "half", images__0__id=10.5))
    assert "images.0.id" in message


@pytest.mark.parametrize("bbox", [[8, 1, 2, 2], [8.4, 1, 2, 2], [-2, 1, 2, 2], [1, 6, 3, 3]])
def test_boxes_that_touch_the_border_from_outside_are_left_out(bbox: Any, tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, annotations__0__bbox=bbox))
    assert data.train.targets[0].tolist() == [[1, 0.5, 0, 2.5, 6], [-1] * 5]
    note = data.notes[1]
    assert "1 object is left out for a box outside the image that touches its border" in note
    assert "annotations.0 of 10.png" in note


def test_boxes_over_the_border_are_clipped(tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, annotations__0__bbox=[-0.5, -1, 9, 8]))
    np.testing.assert_array_equal(data.train.targets[0, 0], [0, 0, 0, 8, 6])


def test_files_without_any_object_are_refused(tmp_path: Path) -> None:
    assert "no objects" in refusal(load_dataset, "boxes", with_keys(tmp_path, annotations=[]))


def test_a_byte_order_mark_is_no_part_of_the_annotations(tmp_path: Path) -> None:
    file = save_folder(tmp_path) / "train.json"
    file.write_text("\ufeff" + file.read_text(), "utf-8")
    assert len(load_dataset("boxes", str(tmp_path)).train) == 3


def test_sizes_that_differ_from_the_image_are_refused(tmp_path: Path) -> None:
    folder = with_keys(tmp_path / "one", images__1__width=6, images__1__height=8)
    message = refusal(load_dataset, "boxes", folder)
    assert message.startswith(f"{folder}/train/11.png: the annotations give another size")
    assert "expected 6x8, got 8x6" in message
    folder = with_keys(tmp_path / "two", images__0__height=5, images__2__width=16)
    message = refusal(load_dataset, "boxes", folder)
    assert "2 of 4 images" in message
    assert "train/10.png, train/12.png" in message


@pytest.mark.parametrize("stated", [None, 0, 6.0])
def test_sizes_that_are_absent_or_floats_are_accepted(stated: float | None, tmp_path: Path) -> None:
    data = load_dataset("boxes", with_keys(tmp_path, images__0__height=stated))
    assert data.notes == tuple(notes_on_groups(tmp_path))


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


@pytest.mark.parametrize("name", ["train.json", "train/10.png"])
def test_pipes_are_refused_rather_than_read(name: str, tmp_path: Path) -> None:
    file = save_folder(tmp_path) / name
    file.unlink()
    os.mkfifo(file)
    assert "not a regular file, got a pipe" in refusal(load_dataset, "boxes", str(tmp_path))
