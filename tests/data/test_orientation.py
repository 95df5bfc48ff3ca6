"""EXIF orientation: every reader sees the image that viewers show."""

from __future__ import annotations

import json
import struct
import zlib
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
STORED = {
    1: SHOWN,
    2: SHOWN[:, ::-1],
    3: SHOWN[::-1, ::-1],
    4: SHOWN[::-1],
    5: SHOWN.T,
    6: np.rot90(SHOWN),
    7: SHOWN[::-1, ::-1].T,
    8: np.rot90(SHOWN, -1),
}
"""The stored pixels that each orientation turns into that picture."""


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
@pytest.mark.parametrize("orientation", STORED)
def test_each_orientation_is_turned_upright(
    orientation: int, suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / f"a.{suffix}"
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
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


def test_annotations_of_the_stored_pixels_are_refused(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", "width": 48, "height": 32}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 20]}],
    }
    for split in ("train", "test"):
        save_turned(tmp_path / split / "0.jpg", pixels(48, 32, 3))
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    message = refusal(load_dataset, "boxes", str(tmp_path), test_limit=1)
    assert "the annotations give another size than the image has" in message
    assert "expected 48x32, got 32x48 when turned upright by its EXIF orientation 6" in message


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
