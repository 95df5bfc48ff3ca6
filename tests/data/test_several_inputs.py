"""Samples of networks with several inputs: tuples and dictionaries of arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import refusal
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hwnas import dataset_of
from hwnas.data import Batches, Dataset, Split, evaluation_batches
from hwnas.data.inputs import NamedInput, fields_of, joined

COUNT = 12
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 2**16, (COUNT, 2, 6, 5), dtype=np.uint16)
SIGNALS = RNG.normal(3, 2, (COUNT, 3, 8))
TABLES = RNG.normal(-1, 5, (COUNT, 4)).astype(np.float32)
WORDS = RNG.integers(0, 9, (COUNT, 5))
LABELS = np.arange(COUNT) % 3
ARRAYS = {"image": IMAGES, "signal": SIGNALS, "columns": TABLES, "words": WORDS}
KINDS = ("image", "signal", "table", "tokens")


class Items(TorchDataset[Any]):
    """Samples whose inputs are a dictionary, or a tuple."""

    def __init__(self, by_name: bool) -> None:
        self.by_name = by_name

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        inputs = {name: array[index] for name, array in ARRAYS.items()}
        return inputs if self.by_name else tuple(inputs.values()), LABELS[index]


def data(**changed: Any) -> Dataset:
    pair = tuple({**ARRAYS, **changed}.values()), LABELS
    return dataset_of(pair, pair, kind=KINDS).with_input_names(list(ARRAYS))


def tensors(**changed: Any) -> tuple[Any, Any]:
    # PyTorch's collation does not take uint16 of all versions as such.
    inputs = {n: a.astype(np.float32) if n == "image" else a for n, a in ARRAYS.items()}
    return {name: torch.from_numpy(array) for name, array in inputs.items()}, LABELS


@pytest.mark.parametrize(
    "given",
    [
        (tuple(ARRAYS.values()), LABELS),
        (ARRAYS, LABELS),
        Items(by_name=True),
        Items(by_name=False),
    ],
)
def test_all_sources_give_the_same_fields(given: Any) -> None:
    found = dataset_of(given, given, kind=KINDS).with_input_names(list(ARRAYS))
    for name, array in fields_of(found.train.inputs).items():
        np.testing.assert_array_equal(array, ARRAYS[name].astype(array.dtype))
    assert found.train.inputs.dtype["image"].base == np.uint16
    assert found.train.targets.tolist() == LABELS.tolist()
    assert found.task == "multi-input-classification"
    assert found.inputs == (
        NamedInput("image", (2, 6, 5), "float32"),
        NamedInput("signal", (3, 8), "float32"),
        NamedInput("columns", (4,), "float32"),
        NamedInput("words", (5,), "int64"),
    )


def test_a_loader_s_batches_are_joined() -> None:
    class Floats(Items):
        def __getitem__(self, index: int) -> Any:
            return (TABLES[index], SIGNALS[index]), LABELS[index]

    for by_name in (True, False):
        found = dataset_of(DataLoader(Floats(by_name), batch_size=5), test_fraction=0.5)
        assert [one.shape for one in found.inputs] == [(4,), (3, 8)]
        assert len(found.train) + len(found.test) == COUNT


def test_each_input_is_normalised_by_its_own_training_samples() -> None:
    found = data()
    image, signal, columns, words = found.normalise(found.train.inputs)
    for tensor, array in ((image, IMAGES), (signal, SIGNALS), (columns, TABLES)):
        values = array.astype(np.float64)
        axes = (0, *range(2, array.ndim))
        moments = [m(values, axis=axes, keepdims=True) for m in (np.mean, np.std)]
        expected = (values - moments[0]) / moments[1]
        np.testing.assert_allclose(tensor.numpy(), expected, atol=2e-4)
    assert torch.equal(words, torch.from_numpy(WORDS))
    other = found.with_training(found.train.take(np.arange(3)))
    assert torch.equal(other.normalise(found.train.inputs)[1], signal)


def test_batches_hold_the_same_samples_of_all_inputs() -> None:
    found = data(columns=np.arange(COUNT)[:, None] + np.zeros(4), words=np.arange(COUNT)[:, None])
    batches = Batches(found.train, found, 4, 0, augment=None)
    (_, _, columns, words), targets = batches.batch(1)
    mean, std = found.normalisations["columns"].moments()
    numbers = words[:, 0]
    torch.testing.assert_close(columns[:, 0], (numbers - mean[0, 0, 0]) / std[0, 0, 0])
    assert torch.equal(targets, torch.from_numpy(LABELS)[numbers])
    counts = [len(inputs[3]) for inputs, _ in evaluation_batches(found.test, found, 5)]
    assert counts == [5, 5, 2]


@pytest.mark.parametrize(
    "given, options, words",
    [
        (({"a": TABLES, "b": TABLES[1:]}, LABELS), {}, "12 samples, as there are targets"),
        (({"a": TABLES}, LABELS), {}, "the same two or more arrays"),
        (({"a": TABLES, "b": TABLES[:, :0]}, LABELS), {}, "x_train b: no samples"),
        (({"a": TABLES, "b": np.full_like(TABLES, np.nan)}, LABELS), {}, "NaN or infinity in 12"),
        (({"a": TABLES, "b": TABLES}, LABELS), {"kind": "table"}, "a kind for each of a, b"),
        (({"a": TABLES, "b": TABLES}, LABELS), {"kind": {"c": "table"}}, "no such input"),
        (({"a": TABLES, "b": TABLES}, LABELS), {"kind": ("table",)}, "kind: not the inputs"),
        (({"a": TABLES, "b": TABLES}, LABELS), {"kind": {"b": "tokens"}}, "b: not tokens"),
        (({"a": TABLES, "b": WORDS - 1}, LABELS), {"kind": {"b": "tokens"}}, "-1 to 7"),
        (((TABLES, WORDS), IMAGES), {}, "unsupported targets of samples of kind several"),
        ((TABLES, LABELS), {"kind": ("table", "table")}, "several kinds of one input"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: Any, options: Any, words: str) -> None:
    assert words in refusal(dataset_of, given, given, **options)


def test_constant_inputs_and_other_parts_are_refused() -> None:
    assert "own data: columns: the training inputs are constant" in refusal(
        lambda: data(columns=np.ones((COUNT, 4))).normalisations
    )
    table = joined({"a": TABLES, "b": TABLES})
    train, test = (Split(table, LABELS), Split(table[["b", "a"]], LABELS))
    assert "differ in shape" in refusal(Dataset, "x", ("0", "1", "2"), train, test)
    assert "b: unsupported shape" in refusal(Split, joined({"a": TABLES, "b": SIGNALS}), LABELS)
    message = refusal(data().with_input_names, ["image", "signal", "columns", "text"])
    assert "expected image, signal, columns, text, got image, signal, columns, words" in message
