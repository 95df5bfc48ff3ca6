"""Images with 16 bits per channel: no grey level is lost, and the normalisation is stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import pixels, refusal
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
def test_deep_images_are_floats_from_0_to_1(suffix: str, tmp_path: Path) -> None:
    # Values of 12 bits, which 8 bits could not tell apart.
    dark = DEEP // 16
    data = load_dataset("folder", save_folder(tmp_path, [DEEP, dark], suffix))
    assert data.train.inputs.dtype == np.float32
    np.testing.assert_allclose(data.train.inputs[0, 0], DEEP / 65535, rtol=1e-6)
    np.testing.assert_allclose(data.train.inputs[1, 0], dark / 65535, rtol=1e-6)
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
    np.testing.assert_allclose(data.train.inputs[0, 0], DEEP / 65535, rtol=1e-6)


def test_beside_deep_images_others_are_scaled_alike(tmp_path: Path) -> None:
    grey, colour = pixels(6, 8), pixels(6, 8, 3)
    data = load_dataset("folder", save_folder(tmp_path / "grey", [DEEP, grey]))
    np.testing.assert_allclose(data.train.inputs[1, 0], grey / 255, rtol=1e-6)
    data = load_dataset("folder", save_folder(tmp_path / "colour", [DEEP, colour]))
    assert data.input_shape == (3, 6, 8)
    np.testing.assert_allclose(data.train.inputs[0], np.stack([DEEP / 65535] * 3), rtol=1e-6)
    expected = colour.transpose(2, 0, 1) / 255
    np.testing.assert_allclose(data.train.inputs[1], expected, rtol=1e-6)


def test_deep_images_are_cropped_and_resized_without_rounding(tmp_path: Path) -> None:
    content = np.arange(4 * 12, dtype=np.uint16).reshape(4, 12)
    data = load_dataset("folder", save_folder(tmp_path, [content, content]), image_size=2)
    image = Image.fromarray(content.astype(np.float32))
    resized = image.resize((2, 2), Image.Resampling.BILINEAR, box=(4, 0, 8, 4))
    expected = np.asarray(resized) / 65535
    assert (np.asarray(resized) % 1).any()
    np.testing.assert_allclose(data.train.inputs[0, 0], expected, rtol=1e-6)


def test_colour_images_with_16_bits_are_read_with_8(tmp_path: Path) -> None:
    """Pillow drops the lower bits of colour images."""
    folder = save_folder(tmp_path, [pixels(6, 8, 3)] * 2)
    data = load_dataset("folder", folder)
    assert (data.train.inputs.dtype, dict(data.reading)) == (np.uint8, {})


def test_images_with_32_bits_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "a", [np.zeros((6, 8), np.float32)] * 2, "tif")
    assert "4 of 4 images cannot be used: not an image with 8 bits per channel" in refusal(
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
    np.testing.assert_allclose(data.train.inputs[0, 0], DEEP / 65535, rtol=1e-6)
    assert data.reading == {"largest_value": 65535}
    np.savez(tmp_path / "a.npz", **{**arrays, "x_test": images.astype(np.uint8)})
    message = refusal(load_dataset, "npz", str(tmp_path / "a.npz"))
    assert "training and test images differ in dtype" in message
