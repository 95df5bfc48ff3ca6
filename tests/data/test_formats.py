"""npz and idx files: known pixels, wrong content, hostile and damaged files."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import Touch, damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st

from hwnas.data import Dataset, load_dataset


def npz_arrays(**changes: Any) -> dict[str, Any]:
    arrays = {
        "x_train": pixels(6, 5, 7),
        "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "x_test": pixels(2, 5, 7, seed=1),
        "y_test": np.array([2, 0]),
    }
    arrays |= changes
    return {key: array for key, array in arrays.items() if array is not None}


def save_npz(path: Path, **changes: Any) -> str:
    np.savez_compressed(path / "data.npz", **npz_arrays(**changes))
    return str(path / "data.npz")


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_npz_image_layouts_are_recognised(layout: str, tmp_path: Path) -> None:
    channels = 1 if layout == "NHW" else 3
    train, test = pixels(6, channels, 5, 7), pixels(2, channels, 5, 7, seed=1)

    def stored(images: np.ndarray) -> np.ndarray:
        layouts = {"NHW": images[:, 0], "NHWC": images.transpose(0, 2, 3, 1), "NCHW": images}
        return layouts[layout]

    path = save_npz(tmp_path, x_train=stored(train), x_test=stored(test))
    data = load_dataset("npz", path)
    np.testing.assert_array_equal(data.train.inputs, train)
    np.testing.assert_array_equal(data.test.inputs, test)
    assert data.train.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.train.targets.dtype == np.int64
    assert data.input_shape == (channels, 5, 7)
    assert data.classes == ("0", "1", "2")


def test_npz_class_names_may_include_unused_classes(tmp_path: Path) -> None:
    data = load_dataset("npz", save_npz(tmp_path, classes=np.array(["a", "b", "c", "unused"])))
    assert data.classes == ("a", "b", "c", "unused")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"y_test": None}, ["y_test", "missing array", "x_train"]),
        ({"x_train": pixels(6, 5, 7).astype(np.float32)}, ["x_test", "differ in type", "float32"]),
        ({"x_train": pixels(6, 5, 7, 9)}, ["x_train", "(6, 5, 7, 9)", "do not tell", "channels"]),
        ({"x_train": pixels(6, 3, 7, 3)}, ["x_train", "(6, 3, 7, 3)", "do not tell"]),
        ({"x_train": pixels(6, 35)}, ["x_test", "other axes", "kind table"]),
        ({"x_train": pixels(6, 35, 1, 1, 1)}, ["x_train", "(6, 35, 1, 1, 1)"]),
        ({"x_train": np.array([["a"] * 5] * 6)}, ["x_train", "not numbers"]),
        ({"x_train": pixels(5, 5, 7)}, ["y_train", "5 targets", "got 6"]),
        ({"x_test": pixels(2, 4, 7)}, ["differ in shape", "(1, 5, 7)", "(1, 4, 7)"]),
        ({"y_test": np.array([2, 3])}, ["y_test", "unknown classes", "got 3"]),
        ({"y_test": np.array([-1, 2])}, ["y_test", "unknown classes", "got -1"]),
        ({"y_test": np.array([2.0, 0.0])}, ["y_test", "int64", "float64"]),
        ({"y_train": np.zeros((6, 2))}, ["y_test", "2 dimensions"]),
        ({"x_test": pixels(0, 5, 7), "y_test": np.zeros(0, int)}, ["x_test", "(0, 5, 7)"]),
        ({"classes": np.array(["a", "b"])}, ["y_train", "0..1", "0..2"]),
        ({"classes": np.array([1, 2, 3])}, ["classes", "int64"]),
        ({"classes": np.array(["a", "b", "c"], object)}, ["classes", "pickled", "object"]),
        ({"y_train": np.array([0] * 6, object)}, ["y_train", "pickled", "object"]),
    ],
)
def test_npz_with_wrong_content_is_refused(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = refusal(load_dataset, "npz", save_npz(tmp_path, **changes))
    for word in words:
        assert word in message


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    content = pickle.dumps(Touch(trap))
    (tmp_path / "pickle.npz").write_bytes(content)
    assert "pickles are never loaded" in refusal(load_dataset, "npz", str(tmp_path / "pickle.npz"))
    path = save_npz(tmp_path, y_train=np.array([Touch(trap)], object))
    assert "pickled objects" in refusal(load_dataset, "npz", path)
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # the trap works


def npy(shape: tuple[int, ...], content: bytes) -> bytes:
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def test_npz_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((2**40, 28, 28), b"few"))
    assert "wrong size" in refusal(load_dataset, "npz", str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", npy((2**27, 1, 1), bytes(2**27)))
    assert "bomb" in refusal(load_dataset, "npz", str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@fuzz
@given(draw=st.data())
def test_damaged_npz_files_load_or_are_refused(
    method: int, draw: st.DataObject, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for key, array in npz_arrays().items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{key}.npy", content.getvalue())
    (tmp_path / "data.npz").write_bytes(damaged(stream.getvalue(), draw))
    loads_or_is_refused("npz", tmp_path / "data.npz")


def test_truncated_npz_is_refused(tmp_path: Path) -> None:
    content = Path(save_npz(tmp_path)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-30])
    assert "truncated" in refusal(load_dataset, "npz", str(tmp_path / "cut.npz"))
    flipped = bytearray(content)
    flipped[70] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    assert "damaged" in refusal(load_dataset, "npz", str(tmp_path / "flipped.npz"))


@functools.cache
def small_slice() -> Dataset:
    return load_dataset(train_limit=20, test_limit=5)


def save_idx(path: Path, **changes: bytes) -> str:
    """Write the four files with images of the shipped slice; `changes` replace contents."""
    data = small_slice()
    for prefix, split in (("train", data.train), ("t10k", data.test)):
        count = len(split)
        files = {
            f"{prefix}-images-idx3-ubyte.gz": struct.pack(">HBBIII", 0, 8, 3, count, 28, 28)
            + split.inputs.tobytes(),
            f"{prefix}-labels-idx1-ubyte.gz": struct.pack(">HBBI", 0, 8, 1, count)
            + split.targets.astype(np.uint8).tobytes(),
        }
        for name, content in files.items():
            key = name.split("-idx")[0].replace("-", "_")
            (path / name).write_bytes(gzip.compress(changes.get(key, content), 1))
    return str(path)


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_idx_pixels_and_labels_are_read(name: str, tmp_path: Path) -> None:
    expected = small_slice()
    data = load_dataset(name, save_idx(tmp_path))
    np.testing.assert_array_equal(data.train.inputs, expected.train.inputs)
    np.testing.assert_array_equal(data.train.targets, expected.train.targets)
    np.testing.assert_array_equal(data.test.inputs, expected.test.inputs)
    assert data.classes[3] == {"fashion-mnist": "Dress", "mnist": "3"}[name]


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("train_images", struct.pack(">HBBI", 0, 8, 1, 3) + bytes(3), ["wrong magic"]),
        ("train_images", struct.pack(">HBBIII", 0, 13, 3, 1, 1, 1) + bytes(4), ["wrong magic"]),
        ("train_images", struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28) + bytes(9), ["15680", "9"]),
        ("train_images", struct.pack(">HBBIII", 0, 8, 3, 1, 2, 2) + bytes(9), ["wrong size"]),
        ("train_images", struct.pack(">HBBIII", 0, 8, 3, 0, 28, 28), ["wrong size"]),
        ("train_images", struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**10, 2**10), ["bomb"]),
        ("train_images", struct.pack(">HBBI", 0, 8, 3, 20), ["truncated"]),
        ("t10k_labels", struct.pack(">HBBI", 0, 8, 1, 4) + bytes(4), ["differ", "5", "4"]),
        ("t10k_labels", struct.pack(">HBBI", 0, 8, 1, 5) + b"\x0a" * 5, ["0..9", "10..10"]),
    ],
)
def test_idx_with_wrong_content_is_refused(
    file: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    message = refusal(load_dataset, "fashion-mnist", save_idx(tmp_path, **{file: content}))
    for word in [file.replace("_", "-"), *words]:
        assert word in message


def test_missing_and_truncated_idx_files_are_named(tmp_path: Path) -> None:
    save_idx(tmp_path)
    file = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = file.read_bytes()
    for broken, cause in [
        (content[:-9], "truncated or damaged"),
        (b"plain text", "truncated or damaged"),
        (b"", "wrong magic"),
    ]:
        file.write_bytes(broken)
        message = refusal(load_dataset, "fashion-mnist", str(tmp_path))
        assert message.startswith(f"{file}: {cause}")
    file.unlink()
    message = refusal(load_dataset, "fashion-mnist", str(tmp_path))
    assert message.startswith(f"{file}: no such file")


@fuzz
@given(draw=st.data())
def test_damaged_idx_files_load_or_are_refused(draw: st.DataObject, tmp_path: Path) -> None:
    header = struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28)
    save_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damaged(gzip.compress(header + bytes(15_680)), draw))
    loads_or_is_refused("fashion-mnist", tmp_path)
