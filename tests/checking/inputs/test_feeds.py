"""Inputs for a model: sizes that it leaves open, random values, and samples from arrays."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hwnas.checking.inputs.feeds import feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, Value


def model(*inputs: Value) -> Inspection:
    return Inspection(
        path=Path("m.onnx"),
        sha256="",
        size_bytes=1,
        ir_version=8,
        opsets={"ai.onnx": 18},
        producer="",
        inputs=inputs,
        outputs=(),
        nodes=1,
        operators={},
        precision="float32",
        params=0,
        external_files={},
        properties={},
        shapes={},
    )


IMAGES = model(Value("x", "float32", ("n", 3, 4, 4)))
FIXED = model(Value("x", "float32", (2, 3)), Value("flag", "bool", (2,)))
RECURRENT = model(
    Value("x", "float32", ("batch", "length", 4)), Value("h", "float32", (1, "batch", 6))
)
UNNAMED = model(Value("X", "float32", (None, 4)))
TYPES = ("float32", "float16", "double", "int64", "int32", "uint8", "int8", "bool", "string")


def test_the_batch_is_the_first_dimension_and_others_with_its_symbol() -> None:
    feeds = feeds_for(RECURRENT, StatedSizes({"x": (5, 9, 4)}), None, 1)
    assert feeds.is_dynamic
    assert feeds.batch == 5
    shapes = {name: array.shape for name, array in feeds.random(7, 0).items()}
    assert shapes == {"x": (7, 9, 4), "h": (1, 7, 6)}
    assert feeds_for(UNNAMED, StatedSizes(), None, 3).random(2, 0)["X"].shape == (2, 4)
    assert not feeds_for(FIXED, StatedSizes(), None, 1).is_dynamic


def test_a_fixed_batch_is_the_first_dimension_if_all_inputs_share_it() -> None:
    assert feeds_for(FIXED, StatedSizes(), None, 1).batch == 2
    unequal = model(Value("x", "float32", (2, 3)), Value("h", "float32", (4, 2)))
    assert feeds_for(unequal, StatedSizes(), None, 1).batch == 1


def test_the_memory_of_all_inputs_together_is_limited() -> None:
    quarter = Value("x", "float32", ("n", 2**26))
    feeds = feeds_for(model(quarter), StatedSizes(), None, 1)
    assert [batch for batch in (1, 4, 5, 64) if feeds.is_affordable(batch)] == [1, 4]
    five = [Value(f"x{index}", "float32", (2**26,)) for index in range(5)]
    feeds_for(model(*five[:4]), StatedSizes(), None, 1)
    with pytest.raises(InputError, match="too large.*all inputs"):
        feeds_for(model(*five), StatedSizes(), None, 1)
    with pytest.raises(InputError, match="too large"):
        feeds_for(model(Value("x", "string", (2**24,))), StatedSizes(), None, 1)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_values_have_the_declared_type_and_depend_on_the_seed(dtype) -> None:
    feeds = feeds_for(model(Value("x", dtype, ("n", 50))), StatedSizes(), None, 1)
    first, again, other = (feeds.random(4, seed)["x"] for seed in (0, 0, 1))
    expected = {"double": "float64", "string": "object"}.get(dtype, dtype)
    assert first.dtype == expected
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "inspected, shapes, words",
    [
        (IMAGES, {"z": (1, 3, 4, 4)}, "no such input.*'x'"),
        (IMAGES, {"x": (1, 3, 5, 4)}, "differs from the one that the model declares"),
        (IMAGES, {"x": (1, 3, 4)}, "wrong number of dimensions"),
        (IMAGES, {"x": (10**9, 3, 4, 4)}, "too large"),
        (RECURRENT, {}, "leaves a size open.*length.*--size length=1"),
        (RECURRENT, {"x": (5, 9, 4), "h": (1, 3, 6)}, "different batch sizes"),
        (model(Value("x", "float32", None)), {}, "leaves a size open"),
        (model(Value("x", "sequence_type", None)), {}, "cannot generate values"),
        (model(Value("x", "complex64", (1,))), {}, "cannot generate values"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(inspected, shapes, words) -> None:
    with pytest.raises(InputError, match=words):
        feeds_for(inspected, StatedSizes(shapes), None, 1)


def test_samples_are_taken_along_the_batch(tmp_path) -> None:
    x, h = np.arange(24.0).reshape(3, 2, 4), np.arange(18.0).reshape(1, 3, 6)
    np.savez(tmp_path / "data.npz", x=x, h=h, labels=[2, 0, 1])
    samples = feeds_for(RECURRENT, StatedSizes(), tmp_path / "data.npz", 1).samples
    chosen = samples.take(np.array([2, 0]))
    np.testing.assert_array_equal(chosen["x"], x[[2, 0]])
    np.testing.assert_array_equal(chosen["h"], h[:, [2, 0]])
    assert [labels.tolist() for _, labels in samples.batches(2)] == [[2, 0], [1]]


def test_a_model_of_a_fixed_batch_takes_whole_batches(tmp_path) -> None:
    x, flag = np.arange(15.0).reshape(5, 3), np.array([1, 0, 1, 1, 0], bool)
    np.savez(tmp_path / "data.npz", x=x, flag=flag, labels=np.arange(5))
    feeds = feeds_for(FIXED, StatedSizes(), tmp_path / "data.npz", 1)
    assert feeds.samples.count == 2
    second = feeds.samples.take(np.array([1]))
    np.testing.assert_array_equal(second["x"], x[2:4])
    np.testing.assert_array_equal(second["flag"], flag[2:4])
    assert [labels.tolist() for _, labels in feeds.samples.batches(1)] == [[0, 1], [2, 3]]
    assert feeds.real(1, 0)["x"].shape == (2, 3)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"z": np.zeros((2, 3, 4, 4))}, "no such input"),
        ({"labels": np.zeros(2, int)}, "has no array"),
        ({"x": np.zeros((2, 3, 4, 5))}, "wrong shape.*'N', 3, 4, 4"),
        ({"x": np.zeros((2, 3, 4))}, "wrong number of dimensions"),
        (
            {"x": np.zeros((0, 3, 4, 4))},
            "too few rows.*expected 1 or more, got 0 in x",
        ),
        ({"x": np.full((2, 3, 4, 4), "a")}, "wrong type"),
        ({"x": np.zeros((2, 3, 4, 4), complex)}, "wrong type"),
        ({"x": np.zeros((2, 3, 4, 4)), "labels": np.zeros(1, int)}, "labels do not fit"),
        ({"x": np.zeros((2, 3, 4, 4)), "labels": np.zeros(2)}, "labels do not fit"),
        ({"x": np.zeros((2, 3, 4, 4)), "labels": np.zeros(3, int)}, "labels do not fit"),
        ({"x": np.full((2, 3, 4, 4), 1e300)}, "too large for the input.*float32.*got 1e"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, words) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=words):
        feeds_for(IMAGES, StatedSizes(), tmp_path / "data.npz", 1)


def test_integers_that_the_input_cannot_hold_are_refused(tmp_path) -> None:
    tokens = model(Value("x", "int32", ("n", 2)))
    np.savez(tmp_path / "data.npz", x=np.array([[1, 2], [3, 2**32 + 1]]))
    with pytest.raises(InputError, match=f"too large.*int32 can hold, got {2**32 + 1}"):
        feeds_for(tokens, StatedSizes(), tmp_path / "data.npz", 1)


def test_a_pair_is_a_sample_and_random_values_or_two_samples(tmp_path) -> None:
    path = tmp_path / "data.npz"
    samples = np.arange(100, 150, dtype=np.float32)[:, None]
    np.savez(path, x=samples)
    feeds = feeds_for(model(Value("x", "float32", ("n", 1))), StatedSizes(), path, 1)
    for only_real in (False, True):
        for first, second in feeds.pairs((1, 7), only_real=only_real):
            assert np.isin(first["x"], samples).all()
            assert np.isin(second["x"], samples).all() == only_real
            assert not np.array_equal(first["x"], second["x"])


def test_feeds_are_made_in_a_process_without_pytorch(tmp_path: Path) -> None:
    """The subprocess that tries a model has a memory limit, which PyTorch would use up."""
    make = partial(feeds_for(IMAGES, StatedSizes(), None, 1).random, seed=0)
    (tmp_path / "make.pickle").write_bytes(pickle.dumps(make))
    code = (
        "import pickle, sys; "
        f"make = pickle.load(open({str(tmp_path / 'make.pickle')!r}, 'rb')); "
        "assert make(2)['x'].shape == (2, 3, 4, 4); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
