"""Arrays as datasets: axes, types, targets, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.data_files import refusal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwnas import dataset_of
from hwnas.data.arrays import inputs_of, raw_data_of
from hwnas.data.targets import Kind

LABELS = np.array([0, 1, 0, 1, 0, 1])


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize(
    "shape, dtype, task, sample",
    [
        ((6, 3, 8, 9), np.uint8, "image-classification", (3, 8, 9)),
        ((6, 8, 9, 3), np.uint16, "image-classification", (3, 8, 9)),
        ((6, 8, 9), np.uint8, "image-classification", (1, 8, 9)),
        ((6, 3, 9), np.float64, "signal-classification", (3, 1, 9)),
        ((6, 9, 3), np.int16, "signal-classification", (3, 1, 9)),
        ((6, 5), np.float32, "table-classification", (5, 1, 1)),
    ],
)
def test_dimensions_and_type_say_what_a_sample_is(
    shape: tuple[int, ...], dtype: Any, task: str, sample: tuple[int, ...]
) -> None:
    inputs = (floats(*shape) * 30 + 100).astype(dtype)
    data = dataset_of((inputs, LABELS), (inputs, LABELS))
    assert (data.task, data.input_shape) == (task, sample)
    is_image = dtype in (np.uint8, np.uint16)
    assert data.train.inputs.dtype == (dtype if is_image else np.float32)
    moved = np.moveaxis(inputs, -1, 1) if shape[-1] == 3 else inputs
    assert np.array_equal(
        data.train.inputs.reshape(moved.shape), moved.astype(data.train.inputs.dtype)
    )


def test_images_may_have_any_number_of_channels_if_their_axis_is_stated() -> None:
    images = floats(6, 12, 16, 16)
    assert 'channels = "first" or "last"' in refusal(dataset_of, (images, LABELS))
    first = dataset_of((images, LABELS), (images, LABELS), channels="first")
    last = dataset_of(*[(np.moveaxis(images, 1, 3), LABELS)] * 2, channels="last")
    assert first.input_shape == last.input_shape == (12, 16, 16)
    assert np.array_equal(first.train.inputs, last.train.inputs)
    assert len(first.mean) == 12


def test_float_images_are_not_scaled_before_they_are_standardised() -> None:
    images = 1000 + 50 * floats(6, 2, 8, 8)
    data = dataset_of((images, LABELS), (images + 7, LABELS))
    assert data.mean == pytest.approx(images.mean(axis=(0, 2, 3)), rel=1e-6)
    assert data.std == pytest.approx(images.std(axis=(0, 2, 3)), rel=1e-4)
    found = data.normalise(data.train.inputs).numpy()
    assert found.mean(axis=(0, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert found.std(axis=(0, 2, 3)) == pytest.approx([1, 1], abs=1e-4)


def test_a_constant_column_becomes_zero_and_is_noted() -> None:
    table = floats(6, 3)
    table[:, 1] = 4
    data = dataset_of((table, LABELS), (table, LABELS))
    assert data.notes == ("own data: x_train: the same value in all samples in channel 1",)
    assert not data.normalise(data.train.inputs)[:, 1].any()


@pytest.mark.parametrize(
    "targets, classes, encoded",
    [
        (np.array([5, 7, 5, 7, 9, 5]), ("5", "7", "9"), [0, 1, 0, 1, 2, 0]),
        (np.array([-1, 1, 1, 1, -1, 1]), ("-1", "1"), [0, 1, 1, 1, 0, 1]),
        (np.array(["b", "a", "b", "a", "a", "b"]), ("a", "b"), [1, 0, 1, 0, 0, 1]),
        (np.array(["b", "a"] * 3, object), ("a", "b"), [1, 0] * 3),
        (np.array([True, False] * 3), ("0", "1"), [1, 0] * 3),
        (np.array([[3], [4]] * 3, np.uint8), ("3", "4"), [0, 1] * 3),
    ],
)
def test_integers_and_texts_are_classes(
    targets: np.ndarray, classes: tuple[str, ...], encoded: list[int]
) -> None:
    table = floats(6, 3)
    data = dataset_of((table, targets), (table, targets))
    assert data.classes == classes
    assert data.train.targets.tolist() == encoded
    assert data.train.targets.dtype == np.int64


def test_given_classes_keep_their_order() -> None:
    table, words = floats(6, 3), np.array(["no", "yes"] * 3)
    data = dataset_of((table, words), (table, words), classes=["yes", "no", "maybe"])
    assert data.classes == ("yes", "no", "maybe")
    assert data.train.targets.tolist() == [1, 0] * 3
    data = dataset_of((table, LABELS), (table, LABELS), classes=["yes", "no", "maybe"])
    assert data.train.targets.tolist() == LABELS.tolist()


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_floats_are_values_to_be_predicted(shape: tuple[int, ...]) -> None:
    table, values = floats(6, 3), floats(*shape)
    data = dataset_of((table, values), (table, values))
    assert (data.task, data.classes) == ("regression", ("value",))
    assert np.array_equal(data.train.targets, values.reshape(6, 1).astype(np.float32))


def test_maps_and_boxes_are_segmentation_and_detection() -> None:
    images = (floats(6, 3, 8, 8) * 30 + 100).astype(np.uint8)
    maps = np.random.default_rng(0).integers(-1, 3, (6, 8, 8))
    data = dataset_of((images, maps), (images, maps))
    assert (data.task, data.classes) == ("segmentation", ("0", "1", "2"))
    assert np.array_equal(data.test.targets, maps)
    boxes = np.tile(np.array([1, 0, 0, 3, 4], np.float32), (6, 2, 1))
    data = dataset_of((images, boxes), (images, boxes), classes=["cat", "dog"])
    assert data.task == "detection"
    assert "unsupported targets" in refusal(dataset_of, (images, boxes), (images, boxes))


NAN = floats(6, 3)
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    "train, options, words",
    [
        ((floats(6, 2, 3, 4, 5), LABELS), {}, ["number of dimensions", "(6, 2, 3, 4, 5)"]),
        ((floats(6), LABELS), {}, ["number of dimensions", "table: (N, F)"]),
        ((np.array([["a"]] * 6), LABELS), {}, ["not numbers"]),
        ((NAN, LABELS), {}, ["NaN or infinity in 1 of 6", "sample 4, channel 2"]),
        ((floats(6, 3) * 1e300, LABELS), {}, ["finite numbers of float32"]),
        ((floats(6, 3), LABELS[:5]), {}, ["y_train", "6 targets", "got 5"]),
        ((floats(6, 3), NAN[:, 2]), {}, ["y_train: sample 4", "NaN"]),
        ((floats(6, 3), np.eye(6)), {}, ["argmax"]),
        ((floats(6, 3), np.zeros((6, 4, 4), int)), {}, ["unsupported targets", "kind table"]),
        ((floats(6, 3), LABELS * 1j), {}, ["unsupported type", "complex128"]),
        ((floats(6, 3), LABELS), {"kind": "image"}, ["other axes", "kind image"]),
        ((floats(6, 3), LABELS), {"kind": "sound"}, ["unknown kind", "signal"]),
        ((floats(6, 5, 5), LABELS), {}, ["do not tell"]),
        ((floats(6, 3), LABELS), {"classes": ["a", "a"]}, ["1 of them different"]),
        ((floats(6, 3), LABELS), {"classes": ["a"]}, ["y_train", "0..0", "0..1"]),
        ((floats(6, 0), LABELS), {}, ["no samples"]),
        ((floats(6, 2, 8, 8), np.zeros((6, 8, 9), int)), {}, ["another size", "(N, 8, 8)"]),
        ((floats(6, 2, 8, 8), np.full((6, 8, 8), -2)), {}, ["out of range"]),
    ],
)
def test_unsuitable_arrays_are_refused(
    train: tuple[np.ndarray, np.ndarray], options: dict[str, Any], words: list[str]
) -> None:
    message = refusal(dataset_of, train, train, **options)
    for word in words:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "test, words",
    [
        ((floats(6, 4), LABELS), ["differ in shape", "(3, 1, 1)", "(4, 1, 1)"]),
        ((floats(6, 3).astype(np.uint8), LABELS), ["differ in type", "uint8"]),
        ((floats(0, 3), LABELS[:0]), ["x_test", "no samples"]),
        ((floats(6, 3), LABELS + 1), ["y_test", "unknown classes", "got 2"]),
        ((floats(6, 3), LABELS.astype(str)), ["y_test", "differ in type"]),
        (floats(6, 3), ["test", "a pair", "ndarray"]),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(test: Any, words: list[str]) -> None:
    message = refusal(dataset_of, (floats(6, 3), LABELS), test)
    for word in words:
        assert word in message


def test_a_part_of_each_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 10])
    table = floats(90, 3)
    data = dataset_of((table, labels), seed=1)
    assert np.bincount(data.test.targets).tolist() == [10, 6, 2]
    both = np.concatenate([data.train.inputs, data.test.inputs])[:, :, 0, 0]
    assert np.array_equal(np.sort(both, axis=0), np.sort(table.astype(np.float32), axis=0))
    again = dataset_of((table, labels), seed=1)
    assert np.array_equal(data.test.inputs, again.test.inputs)
    assert not np.array_equal(data.test.inputs, dataset_of((table, labels), seed=2).test.inputs)
    assert "hold out" in refusal(dataset_of, (table[:2], labels[49:51]))
    assert "between 0 and 1" in refusal(dataset_of, (table, labels), test_fraction=1.0)


KINDS: dict[int, list[Kind]] = {2: ["table"], 3: ["image", "signal"], 4: ["image"]}


@given(
    array=hnp.arrays(
        st.one_of(hnp.floating_dtypes(endianness="="), hnp.integer_dtypes(endianness="=")),
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
    ),
    data=st.data(),
)
def test_any_numbers_become_equal_maps_or_are_refused(
    array: np.ndarray, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS[array.ndim]))
    axis = data.draw(st.sampled_from(["first", "last"]))
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(array.astype(np.float32)).all()
    if not is_finite:
        assert "NaN or infinity" in refusal(inputs_of, array, kind, axis, "here")
        return
    found = inputs_of(array, kind, axis, "here")
    has_channels = (kind, array.ndim) in (("image", 4), ("signal", 3))
    expected = np.moveaxis(array, -1, 1) if axis == "last" and has_channels else array
    assert found.ndim == 4
    assert found.flags.c_contiguous
    assert np.array_equal(found.ravel(), expected.astype(found.dtype).ravel())


def test_raw_data_state_the_kind() -> None:
    table = floats(6, 3)
    raw = raw_data_of(table, LABELS, table, LABELS)
    assert raw.reading == {"input_kind": "table"}
