"""Image folders: known pixels, sizes, and damaged or hostile images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.data import load_dataset
from hwnas.data.cropping import central_box
from hwnas.data.formats import subset_indices
from hwnas.data.image_folder import read_images


def save_folder(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Path:
    """Save two classes, two training images and one test image each; size is (width, height)."""
    channels = len(mode)
    for split, names in (("train", "ab"), ("test", "c")):
        for label, kind in enumerate(("cat", "dog")):
            (path / split / kind).mkdir(parents=True)
            for number, name in enumerate(names):
                content = pixels(size[1], size[0], channels, seed=10 * label + number)
                image = Image.fromarray(content if channels > 1 else content[..., 0])
                image.save(path / split / kind / f"{name}.png")
    return path


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_folder_is_read_in_the_order_of_file_names(
    mode: str, channels: int, tmp_path: Path
) -> None:
    save_folder(tmp_path, mode)
    (tmp_path / "train" / "cat" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "train" / "cat" / "notes.txt").write_bytes(b"no image")
    data = load_dataset("folder", str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [0, 0, 1, 1]
    assert data.test.targets.tolist() == [0, 1]
    assert data.input_shape == (channels, 6, 8)
    dog_b = pixels(6, 8, channels, seed=11).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.inputs[3], dog_b)


def test_folder_of_mixed_modes_becomes_rgb_and_val_serves_as_test(tmp_path: Path) -> None:
    save_folder(tmp_path, "L")
    (tmp_path / "test").rename(tmp_path / "val")
    Image.fromarray(pixels(6, 8, 4)).save(tmp_path / "train" / "cat" / "a.png")
    data = load_dataset("folder", str(tmp_path))
    assert data.input_shape[0] == 3
    np.testing.assert_array_equal(data.train.inputs[0], pixels(6, 8, 4)[..., :3].transpose(2, 0, 1))
    grey = pixels(6, 8, 1, seed=11)[..., 0]
    np.testing.assert_array_equal(data.train.inputs[3], np.stack([grey] * 3))


def test_folder_resizes_the_central_square(tmp_path: Path) -> None:
    save_folder(tmp_path, "L")
    stripes = np.zeros((20, 40), np.uint8)
    stripes[:, 10:30] = 200  # exactly the central square
    Image.fromarray(stripes).save(tmp_path / "train" / "cat" / "a.png")
    data = load_dataset("folder", str(tmp_path), image_size=10)
    assert data.train.inputs.shape == (4, 1, 10, 10)
    # The filter reaches across the border of the square, so the edges are a little darker.
    assert (data.train.inputs[0, 0, :, 1:-1] == 200).all()
    assert data.train.inputs[0].min() > 150
    square = Image.fromarray(pixels(20, 20))
    square.save(tmp_path / "train" / "cat" / "a.png")
    data = load_dataset("folder", str(tmp_path), image_size=10)
    expected = np.asarray(square.resize((10, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.train.inputs[0, 0], expected)
    assert ">= 1" in refusal(load_dataset, "folder", str(tmp_path), image_size=0)


def test_folder_limits_decode_only_the_subset(tmp_path: Path) -> None:
    save_folder(tmp_path)
    full = load_dataset("folder", str(tmp_path))
    chosen = subset_indices(4, 2, 5, "train")
    unused = sorted(set(range(4)) - set(chosen.tolist()))
    files = sorted((tmp_path / "train").glob("*/*.png"))
    files[unused[0]].write_bytes(b"broken, and never opened")
    part = load_dataset("folder", str(tmp_path), train_limit=2, seed=5)
    np.testing.assert_array_equal(part.train.inputs, full.train.inputs[chosen])


def break_size(path: Path) -> None:
    Image.fromarray(pixels(9, 9, 3)).save(path)


def break_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def break_type(path: Path) -> None:
    path.write_text("hello")


def break_postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n")


def break_depth(path: Path) -> None:
    Image.fromarray(np.zeros((6, 8), np.int32)).save(path, "TIFF")


@pytest.mark.parametrize(
    "damage, words",
    [
        (break_size, ["differs in size", "8x6", "9x9", "image_size"]),
        (break_end, ["truncated"]),
        (break_type, ["not an image", "PNG"]),
        (break_postscript, ["not an image"]),
        (break_depth, ["8 or 16 bits", "mode I"]),
    ],
)
def test_error_names_the_image_that_cannot_be_used(
    damage: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    bad = save_folder(tmp_path) / "train" / "dog" / "b.png"
    damage(bad)
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert message.startswith(str(bad))
    for word in words:
        assert word in message


def test_truncated_jpeg_is_named(tmp_path: Path) -> None:
    file = save_folder(tmp_path, size=(64, 64)) / "test" / "cat" / "d.jpg"
    Image.fromarray(pixels(64, 64, 3)).save(file)
    assert load_dataset("folder", str(tmp_path)).test.inputs.shape == (3, 3, 64, 64)
    break_end(file)
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert str(file) in message
    assert "truncated" in message


@pytest.mark.parametrize("limit", [47, 20])  # Pillow warns above the limit, and stops at twice it
def test_images_above_the_pixel_limit_are_refused(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert "a.png" in message
    assert "too large" in message
    assert str(limit) in message
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48)
    assert len(load_dataset("folder", str(tmp_path)).train) == 4


def test_folder_structure_is_checked(tmp_path: Path) -> None:
    assert "train" in refusal(load_dataset, "folder", str(tmp_path))
    (tmp_path / "train").mkdir()
    assert "no class folders" in refusal(load_dataset, "folder", str(tmp_path))
    (tmp_path / "train" / "cat").mkdir()
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert str(tmp_path / "test") in message
    assert "no such folder" in message
    (tmp_path / "test" / "bird").mkdir(parents=True)
    assert "without training images" in refusal(load_dataset, "folder", str(tmp_path))
    (tmp_path / "test" / "bird").rename(tmp_path / "test" / "cat")
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert "no images" in message
    assert str(tmp_path / "train" / "cat") in message


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged TIFF tags
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"])
@fuzz
@given(draw=st.data())
def test_damaged_images_load_or_are_refused(
    suffix: str, draw: st.DataObject, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(6, 8, 3)).save(tmp_path / split / "cat" / "a.png")
    stream = io.BytesIO()
    Image.fromarray(pixels(6, 8, 3)).save(stream, Image.registered_extensions()[f".{suffix}"])
    content = damaged(stream.getvalue(), draw)
    (tmp_path / "train" / "cat" / f"b.{suffix}").write_bytes(content)
    loads_or_is_refused("folder", tmp_path)


@given(st.tuples(*[st.integers(1, 5000)] * 4))
def test_the_crop_lies_within_the_image(sizes) -> None:
    width, height, *wanted = sizes
    left, top, right, bottom = central_box((width, height), tuple(wanted))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_names_that_the_file_system_refuses_are_no_damaged_images(tmp_path: Path) -> None:
    message = refusal(read_images, [tmp_path / f"{'x' * 300}.png"], None)
    assert "the image cannot be read" in message
    assert "File name too long" in message


def test_damaged_metadata_is_read_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010F] = "maker" * 9
    Image.fromarray(pixels(6, 8, 3)).save(file, exif=exif)
    file.write_bytes(file.read_bytes().replace(b"\x01\x0f\x00\x02", b"\x01\x0f\x00\x63"))
    content = file.read_bytes()
    place = content.index(b"makermaker")
    file.write_bytes(content[: place - 8] + b"\xff" * 4 + content[place - 4 :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_images([file], None).shape == (1, 3, 6, 8)
