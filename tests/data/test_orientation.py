"""EXIF orientation: every reader sees the image that viewers show."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import pixels, refusal
from PIL import Image

from hwnas.data import load_dataset
from hwnas.data.image_folder import opened, upright, upright_size
from hwnas.data.image_folder import orientation as find_orientation
from hwnas.data.image_sizes import common_image_side

TAG = 0x0112
SHOWN = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
"""A picture as viewers show it, 4 pixels wide and 6 high."""
STORE: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: np.rot90,
    7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}
"""The stored pixels that each orientation turns into a picture (rows, columns, ...)."""


def exif(orientation: Any) -> Image.Exif:
    found = Image.Exif()
    found[TAG] = orientation
    return found


def save_turned(file: Path, shown: np.ndarray, **options: Any) -> None:
    """Save a picture turned by 90 degrees, with an orientation that turns it back."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.rot90(shown))).save(file, exif=exif(6), **options)


@pytest.mark.parametrize(
    "suffix, options",
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
        ("jpg", {"quality": 100}),
    ],
)
@pytest.mark.parametrize("orientation", STORE)
def test_each_orientation_is_turned_upright(
    orientation: int, suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / f"a.{suffix}"
    image = Image.fromarray(np.ascontiguousarray(STORE[orientation](SHOWN)))
    image.save(file, exif=exif(orientation), **options)
    with opened(file) as found:
        assert upright_size(found, file) == (4, 6)
        turned = upright(found.convert("L"), find_orientation(found, file))
    assert np.abs(np.asarray(turned).astype(int) - SHOWN).max() <= 1


def test_photos_of_a_folder_are_read_upright(tmp_path: Path) -> None:
    shown = pixels(16, 8, 3)
    for split in ("train", "test"):
        for label in "ab":
            save_turned(tmp_path / split / label / "0.png", shown)
    data = load_dataset("folder", str(tmp_path))
    assert data.input_shape == (3, 16, 8)
    np.testing.assert_array_equal(data.train.inputs[0], shown.transpose(2, 0, 1))
    resized = load_dataset("folder", str(tmp_path), image_size=8).train.inputs[0]
    central = Image.fromarray(shown[4:12])
    np.testing.assert_array_equal(resized, np.asarray(central).transpose(2, 0, 1))
    # Beside an image that is stored upright, no image differs in size.
    Image.fromarray(shown).save(tmp_path / "train" / "a" / "1.png")
    assert len(load_dataset("folder", str(tmp_path)).train) == 3
    assert common_image_side(tmp_path, 16) == (None, "")


def test_jpeg_photos_are_read_upright(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            save_turned(tmp_path / split / label / "0.jpg", pixels(16, 8, 3))
    assert load_dataset("folder", str(tmp_path)).input_shape == (3, 16, 8)


def test_boxes_lie_on_the_upright_image(tmp_path: Path) -> None:
    shown = np.zeros((48, 32, 3), np.uint8)
    shown[4:24, 4:12] = 255
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", "width": 32, "height": 48}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 20]}],
    }
    for split in ("train", "test"):
        save_turned(tmp_path / split / "0.jpg", shown, quality=95)
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    for size in (None, 32):
        data = load_dataset("boxes", str(tmp_path), image_size=size)
        left, top, right, bottom = data.train.targets[0, 0, 1:].astype(int)
        assert (right - left, bottom - top) == (8, 20 if size is None else 16)
        inside = data.train.inputs[0, :, top:bottom, left:right]
        assert inside.mean() > 250
        assert data.train.inputs[0].sum() < 1.1 * inside.sum()


def annotated(photo: np.ndarray, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of a photo and of the box around its white pixels, as it is stored."""
    (top, left), (bottom, right) = (
        f(np.argwhere(photo[..., 0] > 128), 0) for f in (np.min, np.max)
    )
    box = [int(left), int(top), int(right - left) + 1, int(bottom - top) + 1]
    image = {"id": number, "file_name": f"{number}.png"}
    image |= {"width": photo.shape[1], "height": photo.shape[0]}
    return image, {"id": number, "image_id": number, "category_id": 1, "bbox": box}


def write_annotations(path: Path, entries: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    images, annotations = zip(*entries, strict=True)
    categories = [{"id": 1, "name": "a"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))


def test_boxes_on_stored_pixels_are_turned_with_their_images(tmp_path: Path) -> None:
    """The sizes of images that are turned by 90 degrees tell it for all images of the file."""
    shown = np.zeros((40, 60, 3), np.uint8)
    shown[4:24, 4:12] = 255
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        entries = []
        for orientation, store in STORE.items():
            # All photos have one size once they are upright.
            stored = np.ascontiguousarray(store(shown))
            file = tmp_path / split / f"{orientation}.png"
            Image.fromarray(stored).save(file, exif=exif(orientation))
            entries.append(annotated(stored, orientation))
        write_annotations(tmp_path / f"{split}.json", entries)
    data = load_dataset("boxes", str(tmp_path))
    assert data.train.targets[:, 0, 1:].tolist() == [[4, 4, 12, 24]] * 8
    assert "were turned with 7 of them" in data.notes[0]


def test_annotations_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    shown = np.zeros((40, 60, 3), np.uint8)
    shown[4:24, 4:12] = 255
    for split in ("train", "test"):
        for number in (1, 2):
            save_turned(tmp_path / split / f"{number}.png", shown)
        as_stored = annotated(np.rot90(shown), 1)
        write_annotations(tmp_path / f"{split}.json", [as_stored, annotated(shown, 2)])
    message = refusal(load_dataset, "boxes", str(tmp_path))
    assert "1.png as it is stored, 2.png turned upright" in message


def test_a_size_of_neither_picture_is_refused(tmp_path: Path) -> None:
    shown = np.full((40, 60, 3), 255, np.uint8)
    for split in ("train", "test"):
        save_turned(tmp_path / split / "1.png", shown)
        write_annotations(tmp_path / f"{split}.json", [annotated(shown[:, :50], 1)])
    message = refusal(load_dataset, "boxes", str(tmp_path), test_limit=1)
    assert "the annotations give another size than the image has" in message
    assert "expected 50x40, got 60x40 when turned upright by its EXIF orientation 6" in message


def test_masks_fit_the_upright_image(tmp_path: Path) -> None:
    shown, mask = pixels(16, 8, 3), pixels(16, 8) % 2
    (tmp_path / "classes.txt").write_text("nothing\ncat\n")
    for split in ("train", "test"):
        save_turned(tmp_path / split / "images" / "0.png", shown)
        (tmp_path / split / "masks").mkdir()
        Image.fromarray(mask).save(tmp_path / split / "masks" / "0.png")
    data = load_dataset("masks", str(tmp_path))
    np.testing.assert_array_equal(data.train.inputs[0], shown.transpose(2, 0, 1))
    np.testing.assert_array_equal(data.train.targets[0], mask)
    # A mask may be turned itself.
    save_turned(tmp_path / "train" / "masks" / "0.png", mask)
    np.testing.assert_array_equal(load_dataset("masks", str(tmp_path)).train.targets[0], mask)
    # A mask of the stored pixels does not fit.
    Image.fromarray(np.ascontiguousarray(np.rot90(mask))).save(tmp_path / "train/masks/0.png")
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert "the mask differs in size from its image" in message


def with_late_metadata(file: Path) -> None:
    """Move the metadata of a PNG file behind its pixels, where some programs write them."""
    content = file.read_bytes()
    start = content.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", content[start : start + 4])
    chunk = content[start : start + 12 + length]
    assert zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]
    end = content.index(b"IEND") - 4
    rest = content[:start] + content[start + len(chunk) : end]
    file.write_bytes(rest + chunk + content[end:])


def test_metadata_behind_the_pixels_count(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            file = tmp_path / split / label / "0.png"
            save_turned(file, pixels(16, 8, 3))
            with_late_metadata(file)
    assert load_dataset("folder", str(tmp_path)).input_shape == (3, 16, 8)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientations_leave_the_image_as_it_is(orientation: int, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            file = tmp_path / split / label / "0.jpg"
            file.parent.mkdir(parents=True)
            Image.fromarray(pixels(16, 8, 3)).save(file, exif=exif(orientation))
    assert load_dataset("folder", str(tmp_path)).input_shape == (3, 16, 8)


def test_damaged_metadata_leave_the_image_as_it_is(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "ab":
            file = tmp_path / split / label / "0.jpg"
            file.parent.mkdir(parents=True)
            Image.fromarray(pixels(16, 8, 3)).save(file, exif=b"Exif\0\0no TIFF header here")
    assert load_dataset("folder", str(tmp_path)).input_shape == (3, 16, 8)
