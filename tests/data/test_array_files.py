"""Images as `.npy` files in class folders."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_files import Touch, damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.data import load_dataset


def folder_of(path: Path, arrays: list[Any]) -> str:
    for split in ("train", "test"):
        for number, array in enumerate(arrays):
            file = path / split / "ab"[number % 2] / f"{number}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(array, bytes):
                file.write_bytes(array)
            else:
                np.save(file, array)
    return str(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int16])
def test_types_are_kept_or_become_float32(dtype: Any, tmp_path: Path) -> None:
    arrays = [(pixels(5, 7, seed=seed) * 3.5).astype(dtype) for seed in (0, 1)]
    data = load_dataset("folder", folder_of(tmp_path, arrays))
    expected = dtype if dtype in (np.uint8, np.uint16) else np.float32
    assert data.train.inputs.dtype == expected
    np.testing.assert_array_equal(data.train.inputs[:, 0], np.stack(arrays).astype(expected))
    assert data.classes == ("a", "b")
    assert data.task == "image-classification"
    assert data.reading == ({"largest_value": 65535} if dtype == np.uint16 else {})


def test_arrays_may_have_any_number_of_channels(tmp_path: Path) -> None:
    arrays = [pixels(12, 20, 20, seed=seed) for seed in (0, 1)]
    path = folder_of(tmp_path / "first", arrays)
    assert 'channels = "first" or "last"' in refusal(load_dataset, "folder", path)
    first = load_dataset("folder", path, channels="first")
    path = folder_of(tmp_path / "last", [np.moveaxis(array, 0, 2) for array in arrays])
    last = load_dataset("folder", path, channels="last")
    assert first.input_shape == last.input_shape == (12, 20, 20)
    np.testing.assert_array_equal(first.train.inputs, last.train.inputs)


def test_arrays_are_cropped_and_resized_like_images(tmp_path: Path) -> None:
    arrays = [pixels(8, 12, seed=0), pixels(10, 8, seed=1)]
    path = folder_of(tmp_path, arrays)
    assert "set image_size" in refusal(load_dataset, "folder", path)
    data = load_dataset("folder", path, image_size=4)
    image = Image.fromarray(arrays[0].astype(np.float32))
    expected = image.resize((4, 4), Image.Resampling.BILINEAR, box=(2, 0, 10, 8))
    np.testing.assert_array_equal(data.train.inputs[0, 0], np.rint(np.asarray(expected)))


FLOATS = np.random.default_rng(0).standard_normal((4, 4))
NAN = np.where(np.eye(4) > 0, np.nan, FLOATS)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ([pixels(3, 8, 8), pixels(2, 8, 8)], ["differs in type, channels or size", "(2, 8, 8)"]),
        ([pixels(8, 8), pixels(8, 8).astype(np.uint16)], ["uint16 (1, 8, 8)", "uint8 (1, 8, 8)"]),
        ([FLOATS, NAN], ["NaN or infinity", "1.npy"]),
        ([pixels(8), pixels(8)], ["(H, W, C)", "(8,)"]),
        ([np.array(["a"])] * 2, ["not the array of an image"]),
        ([np.array([["a"]])] * 2, ["not numbers"]),
        ([b"", b""], ["not an array, or a damaged one"]),
        ([pixels(0, 4), pixels(0, 4)], ["0.npy"]),
    ],
)
def test_unsuitable_arrays_are_named(arrays: list[Any], words: list[str], tmp_path: Path) -> None:
    message = refusal(load_dataset, "folder", folder_of(tmp_path, arrays))
    for word in words:
        assert word in message
    assert "\n" not in message


def test_arrays_and_images_are_not_mixed(tmp_path: Path) -> None:
    path = folder_of(tmp_path, [pixels(8, 8)] * 2)
    Image.fromarray(pixels(8, 8)).save(tmp_path / "train" / "a" / "x.png")
    assert "4 of 5 files" in refusal(load_dataset, "folder", path)


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    stream = io.BytesIO()
    np.save(stream, np.array([[Touch(trap)]], object), allow_pickle=True)
    for number, content in enumerate((pickle.dumps(Touch(trap)), stream.getvalue())):
        path = folder_of(tmp_path / str(number), [content] * 2)
        assert "not an array, or a damaged one" in refusal(load_dataset, "folder", path)
    assert not trap.exists()


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)}
    np.lib.format.write_array_header_1_0(stream, header)
    path = folder_of(tmp_path, [stream.getvalue() + b"few"] * 2)
    assert "damaged" in refusal(load_dataset, "folder", path)


@fuzz
@given(draw=st.data())
def test_damaged_arrays_load_or_are_refused(draw: st.DataObject, tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, pixels(5, 7))
    folder_of(tmp_path, [damaged(stream.getvalue(), draw)] * 2)
    loads_or_is_refused("folder", tmp_path)
