"""Images with 16 bits per channel: no grey level is lost, and the normalisation is stated."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.data import Augmentation, Batches, load_dataset
from hwnas.tasks import task_of

DEEP = np.random.default_rng(3).integers(0, 2**16, (6, 8), dtype=np.uint16)


def save_folder(path: Path, images: list[np.ndarray], suffix: str = "png", **options: Any) -> str:
    for split in ("train", "test"):
        for number, content in enumerate(images):
            file = path / split / "ab"[number % 2] / f"{number}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(file, **options)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_deep_images_keep_16_bits(suffix: str, tmp_path: Path) -> None:
    # Values of 12 bits, which 8 bits could not tell apart.
    dark = DEEP // 16
    data = load_dataset("folder", save_folder(tmp_path, [DEEP, dark], suffix))
    assert data.train.inputs.dtype == np.uint16
    np.testing.assert_array_equal(data.train.inputs[0, 0], DEEP)
    np.testing.assert_array_equal(data.train.inputs[1, 0], dark)
    assert data.mean[0] == pytest.approx((DEEP / 65535).mean() / 2 * 17 / 16, rel=1e-3)
    assert data.reading == {"largest_value": 65535}
    assert task_of(data).properties()["largest_value"] == 65535
    normalised = data.normalise(data.train.inputs)
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-5)
    assert float(normalised.std()) == pytest.approx(1, rel=0.02)


def test_big_endian_tiffs_are_read(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, [DEEP, DEEP])
    for file in tmp_path.glob("*/*/*.png"):
        header = b"MM\0*\0\0\0\x08\0\x09"
        tags = [(256, 8), (257, 6), (258, 16), (259, 1), (262, 1), (277, 1), (278, 6)]
        entries = [(tag, 3, 1, value << 16) for tag, value in tags]
        entries = sorted([*entries, (273, 4, 1, 122), (279, 4, 1, DEEP.size * 2)])
        table = b"".join(
            tag.to_bytes(2) + kind.to_bytes(2) + count.to_bytes(4) + value.to_bytes(4)
            for tag, kind, count, value in entries
        )
        content = header + table + bytes(4)
        assert len(content) == 122
        file.with_suffix(".tif").write_bytes(content + DEEP.astype(">u2").tobytes())
        file.unlink()
    data = load_dataset("folder", folder)
    np.testing.assert_array_equal(data.train.inputs[0, 0], DEEP)


def test_beside_deep_images_others_are_scaled_alike(tmp_path: Path) -> None:
    grey, colour = pixels(6, 8), pixels(6, 8, 3)
    data = load_dataset("folder", save_folder(tmp_path / "grey", [DEEP, grey]))
    np.testing.assert_array_equal(data.train.inputs[1, 0], grey * np.uint16(257))
    data = load_dataset("folder", save_folder(tmp_path / "colour", [DEEP, colour]))
    assert data.input_shape == (3, 6, 8)
    np.testing.assert_array_equal(data.train.inputs[0], np.stack([DEEP] * 3))
    expected = colour.transpose(2, 0, 1) * np.uint16(257)
    np.testing.assert_array_equal(data.train.inputs[1], expected)


def test_deep_images_are_cropped_and_resized_with_16_bits(tmp_path: Path) -> None:
    content = np.arange(4 * 12, dtype=np.uint16).reshape(4, 12)
    data = load_dataset("folder", save_folder(tmp_path, [content, content]), image_size=2)
    image = Image.fromarray(content.astype(np.float32))
    resized = image.resize((2, 2), Image.Resampling.BILINEAR, box=(4, 0, 8, 4))
    np.testing.assert_array_equal(data.train.inputs[0, 0], np.rint(np.asarray(resized)))


def png_of(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG file of values (H, W, C) uint16, written by the format's definition."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff_of(values: np.ndarray, order: str, *, is_compressed: bool, turned: int = 1) -> bytes:
    """A TIFF file of values (H, W, C) uint16; a compressed one stores differences of pixels."""
    height, width, channels = values.shape
    stored = values.copy()
    if is_compressed:
        stored[:, 1:] -= values[:, :-1]
    pixels = stored.astype(order + "u2").tobytes()
    pixels = zlib.compress(pixels) if is_compressed else pixels
    shorts = {256: width, 257: height, 259: 8 if is_compressed else 1, 262: 2, 274: turned}
    shorts |= {277: channels, 278: height, 284: 1, 317: 2 if is_compressed else 1}
    shorts |= {338: 2} if channels == 4 else {}
    start = 8 + 2 + 12 * (len(shorts) + 3) + 4
    entries = {tag: struct.pack(order + "HIHH", 3, 1, v, 0) for tag, v in shorts.items()}
    entries[258] = struct.pack(order + "HII", 3, channels, start)
    entries[273] = struct.pack(order + "HII", 4, 1, start + 2 * channels)
    entries[279] = struct.pack(order + "HII", 4, 1, len(pixels))
    table = b"".join(struct.pack(order + "H", tag) + entries[tag] for tag in sorted(entries))
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    depths = struct.pack(order + f"{channels}H", *[16] * channels)
    return header + struct.pack(order + "H", len(entries)) + table + bytes(4) + depths + pixels


def folder_of(path: Path, contents: list[bytes], suffix: str) -> str:
    for split in ("train", "test"):
        for number, content in enumerate(contents):
            file = path / split / "ab"[number % 2] / f"{number}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return str(path)


COLOUR = np.random.default_rng(5).integers(0, 2**16, (6, 8, 4), dtype=np.uint16)


@pytest.mark.parametrize("colour_type, channels", [(2, 3), (6, 4)])
def test_colour_pngs_keep_16_bits(colour_type: int, channels: int, tmp_path: Path) -> None:
    contents = [png_of(COLOUR[..., :channels], colour_type)] * 2
    data = load_dataset("folder", folder_of(tmp_path, contents, "png"))
    np.testing.assert_array_equal(data.train.inputs[0], COLOUR[..., :3].transpose(2, 0, 1))


def test_grey_pngs_with_transparency_keep_16_bits(tmp_path: Path) -> None:
    contents = [png_of(COLOUR[..., :2], 4)] * 2
    data = load_dataset("folder", folder_of(tmp_path, contents, "png"))
    np.testing.assert_array_equal(data.train.inputs[0], COLOUR[None, ..., 0])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_tiffs_keep_16_bits(
    order: str, is_compressed: bool, channels: int, tmp_path: Path
) -> None:
    content = tiff_of(COLOUR[..., :channels], order, is_compressed=is_compressed)
    data = load_dataset("folder", folder_of(tmp_path, [content] * 2, "tif"))
    np.testing.assert_array_equal(data.train.inputs[0], COLOUR[..., :3].transpose(2, 0, 1))


def test_deep_colour_images_are_turned_and_resized(tmp_path: Path) -> None:
    content = tiff_of(COLOUR[..., :3], "<", is_compressed=False, turned=6)
    data = load_dataset("folder", folder_of(tmp_path / "turned", [content] * 2, "tif"))
    expected = np.rot90(COLOUR[..., :3], -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.inputs[0], expected)
    content = png_of(COLOUR[..., :3], 2)
    data = load_dataset("folder", folder_of(tmp_path / "small", [content] * 2, "png"), image_size=3)
    plane = Image.fromarray(COLOUR[..., 1].astype(np.float32))
    expected = plane.resize((3, 3), Image.Resampling.BILINEAR, box=(1, 0, 7, 6))
    np.testing.assert_array_equal(data.train.inputs[0, 1], np.rint(np.asarray(expected)))


@fuzz
@given(draw=st.data())
def test_damaged_deep_images_load_or_are_refused(draw: st.DataObject, tmp_path: Path) -> None:
    suffix = draw.draw(st.sampled_from(["png", "tif"]))
    is_compressed = draw.draw(st.booleans())
    whole = (
        png_of(COLOUR[..., :3], 2)
        if suffix == "png"
        else tiff_of(COLOUR[..., :3], "<", is_compressed=is_compressed)
    )
    folder = tmp_path / suffix
    folder_of(folder, [damaged(whole, draw)] * 2, suffix)
    loads_or_is_refused("folder", folder)


def test_images_with_32_bits_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", [np.zeros((6, 8), np.float32)] * 2, "tif")
    assert "4 of 4 images cannot be used: not an image with 8 or 16 bits per channel" in refusal(
        load_dataset, "folder", folder
    )


def test_deep_images_are_augmented(tmp_path: Path) -> None:
    data = load_dataset("folder", save_folder(tmp_path, [DEEP, DEEP + 1]))
    batches = Batches(data.train, data, 2, 0, augment=Augmentation(flip=True))
    expected = data.normalise(data.train.inputs)
    for found in batches.batch(0)[0]:
        candidates = [image for own in expected for image in (own, own.flip(2))]
        assert any(found.equal(image) for image in candidates)


def test_npz_files_may_hold_deep_images(tmp_path: Path) -> None:
    images = np.stack([DEEP, DEEP])
    labels = np.array([0, 1])
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load_dataset("npz", str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.train.inputs[0, 0], DEEP)
    assert data.reading["largest_value"] == 65535
    np.savez(tmp_path / "a.npz", **{**arrays, "x_test": images.astype(np.uint8)})
    message = refusal(load_dataset, "npz", str(tmp_path / "a.npz"))
    assert "training and test inputs differ in type" in message
