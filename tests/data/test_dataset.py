"""Datasets and batches: the shipped slice, subsets, normalisation, order of the samples."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_files import numbered, pixels, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwnas.data import (
    DATASETS,
    Augmentation,
    Batches,
    Dataset,
    Split,
    evaluation_batches,
    load_dataset,
    split_train,
)
from hwnas.data.formats import FASHION_MNIST_CLASSES, seeded_rng, subset_indices
from hwnas.errors import InputError

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("HWNAS_DATA", "no-such-folder"))
SLICE = ROOT / "hwnas" / "datasets" / "fashion_mnist_slice.npz"


def test_slice_is_balanced_and_small() -> None:
    data = load_dataset("fashion-mnist-slice", None)
    assert data.train.inputs.shape == (12_000, 1, 28, 28)
    assert data.test.inputs.shape == (2_000, 1, 28, 28)
    assert np.bincount(data.train.targets).tolist() == [1_200] * 10
    assert np.bincount(data.test.targets).tolist() == [200] * 10
    assert data.classes == FASHION_MNIST_CLASSES
    assert SLICE.stat().st_size < 6_000_000
    # The published figures of the full training set are 0.2860 and 0.3530.
    assert data.mean == pytest.approx((0.2860,), abs=2e-3)
    assert data.std == pytest.approx((0.3530,), abs=2e-3)


def test_slice_readme_names_the_file_and_the_licence() -> None:
    readme = (SLICE.parent / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(SLICE.read_bytes()).hexdigest() in readme
    assert "MIT" in readme
    assert "Zalando SE" in readme


@pytest.mark.skipif(not (DATA / "fashion_mnist.npz").exists(), reason="needs the full dataset")
def test_slice_is_what_the_script_cuts_from_the_full_dataset() -> None:
    script = ROOT / "benchmarks" / "make_fashion_mnist_slice.py"
    spec = importlib.util.spec_from_file_location("make_slice", script)
    assert spec is not None
    assert spec.loader is not None
    make_slice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_slice)
    expected = make_slice.cut_slice(DATA / "fashion_mnist.npz")
    with np.load(SLICE, allow_pickle=False) as shipped:
        assert set(shipped) == set(expected)
        for key, array in expected.items():
            np.testing.assert_array_equal(shipped[key], array)


def test_unknown_names_and_wrong_options_are_refused(tmp_path: Path) -> None:
    assert "fashion-mnist-slice" in refusal(load_dataset, "imagenet", None)
    assert "takes no path" in refusal(load_dataset, "fashion-mnist-slice", str(tmp_path))
    assert "image_size" in refusal(load_dataset, "fashion-mnist-slice", None, image_size=32)
    assert ">= 1" in refusal(load_dataset, train_limit=0)
    assert ">= 0" in refusal(load_dataset, train_limit=5, seed=-1)


WITH_PATH = [name for name, source in DATASETS.items() if source.place != "nowhere"]


@pytest.mark.parametrize("name", WITH_PATH)
def test_missing_paths_say_what_was_expected(name: str, tmp_path: Path) -> None:
    expected = DATASETS[name].expected
    assert expected in refusal(load_dataset, name, None)
    absent = tmp_path / "absent"
    message = refusal(load_dataset, name, str(absent))
    assert str(absent) in message
    assert "does not exist" in message
    assert expected in message


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    assert "not the right kind" in refusal(load_dataset, "npz", str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    assert "not the right kind" in refusal(load_dataset, "folder", str(tmp_path / "file"))


def test_limits_take_a_seeded_random_subset() -> None:
    full = load_dataset()
    part = load_dataset(train_limit=50, test_limit=7, seed=3)
    chosen = subset_indices(12_000, 50, 3, "train")
    assert len(set(chosen)) == 50
    assert not np.array_equal(chosen, np.arange(50))
    np.testing.assert_array_equal(part.train.inputs, full.train.inputs[chosen])
    np.testing.assert_array_equal(part.train.targets, full.train.targets[chosen])
    assert len(part.test) == 7
    assert not np.array_equal(chosen, subset_indices(12_000, 50, 4, "train"))
    np.testing.assert_array_equal(subset_indices(5, 9, 0, "train"), np.arange(5))


def test_splits_are_checked() -> None:
    images, labels = pixels(4, 1, 3, 3), np.arange(4)
    assert "uint8" in refusal(Split, images.astype(np.float64), labels)
    assert "(N, C, H, W)" in refusal(Split, images[:, 0], labels)
    assert "(4,) int64" in refusal(Split, images, labels.astype(np.int32))
    assert "(4,) int64" in refusal(Split, images, labels[:3])
    split = Split(images, labels)
    assert len(split) == 4
    assert "0..2" in refusal(Dataset, "x", ("a", "b", "c"), split, split)


@settings(max_examples=50, deadline=None)
@given(
    images=hnp.arrays(
        np.uint8,
        st.tuples(*[st.integers(1, high) for high in (9, 3, 5, 5)]),
        elements=st.integers(0, 255),
    )
)
def test_mean_and_std_match_float64(images: np.ndarray) -> None:
    split = Split(images, np.zeros(len(images), np.int64))
    data = Dataset("x", ("only",), split, split)
    scaled = images.astype(np.float64) / 255
    std = scaled.std(axis=(0, 2, 3))
    if std.max() < 5e-5:
        assert "the training inputs are constant" in refusal(lambda: data.std)
        return
    assert data.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=5.1e-5)
    # A constant channel becomes 0.
    assert data.std == pytest.approx(np.where(std < 5e-5, 1, std), abs=5.1e-5)
    assert all(round(value, 4) == value for value in data.mean + data.std)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_standardises_each_channel(channels: int) -> None:
    data = numbered(9, channels)
    images = data.train.inputs[::-1]
    images.flags.writeable = False
    result = data.normalise(images)
    mean = np.array(data.mean)[:, None, None]
    std = np.array(data.std)[:, None, None]
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert result.dtype == torch.float32
    assert result.stride() == (36 * channels, 1, 6 * channels, channels)  # channels_last
    assert "uint8" in refusal(data.normalise, images.astype(np.float32))
    assert f"{channels}, H, W" in refusal(data.normalise, pixels(2, 2, 6, 6))


def test_each_epoch_is_a_new_permutation() -> None:
    data = numbered(23)
    batches = Batches(data.train, data, 5, seed=1, augment=None)
    assert batches.steps_per_epoch == 4
    epochs = []
    for epoch in range(3):
        steps = range(4 * epoch, 4 * epoch + 4)
        order = torch.cat([batches.batch(step)[1] for step in steps]).tolist()
        assert len(set(order)) == 20
        epochs.append(order)
    assert len({tuple(order) for order in epochs}) == 3
    assert len({tuple(sorted(order)) for order in epochs}) > 1  # not always the same 3 left out


def test_batches_hold_the_normalised_samples_of_their_labels() -> None:
    data = numbered(12, channels=3)
    images, labels = Batches(data.train, data, 4, seed=0, augment=None).batch(7)
    assert labels.dtype == torch.int64
    assert torch.equal(images, data.normalise(data.train.inputs[labels.numpy()]))
    assert images.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), steps=st.lists(st.integers(0, 10**6), min_size=2, max_size=4))
def test_a_batch_depends_on_nothing_but_seed_and_step(seed: int, steps: list[int]) -> None:
    data = numbered(10)
    augment = Augmentation(crop_padding=2, flip=True, cutout=3)
    used = Batches(data.train, data, 3, seed, augment=augment)
    for step in steps + steps[::-1]:
        np.random.seed(step % 1000)
        torch.manual_seed(step)
        images, labels = used.batch(step)
        fresh = Batches(data.train, data, 3, seed, augment=augment).batch(step)
        assert torch.equal(images, fresh[0])
        assert torch.equal(labels, fresh[1])


def test_different_seeds_and_steps_give_different_batches() -> None:
    data = numbered(64)
    augment = Augmentation(crop_padding=2)

    def images(seed: int, step: int) -> torch.Tensor:
        return Batches(data.train, data, 64, seed, augment=augment).batch(step)[0]

    assert not torch.equal(images(0, 0), images(1, 0))
    assert not torch.equal(images(0, 0), images(0, 1))
    draws = [
        tuple(seeded_rng(seed, purpose, index).integers(0, 2**60, 2))
        for seed in (0, 1, 2**32, 2**32 + 1)
        for purpose in ("order", "augmentation")
        for index in (0, 1, 2**32)
    ]
    assert len(set(draws)) == len(draws)


def test_order_is_the_same_as_in_earlier_versions() -> None:
    """Resumed runs rely on the order, so a change to it needs a note in the changelog."""
    data = numbered(10)
    batches = Batches(data.train, data, 5, seed=0, augment=None)
    assert [batches.batch(step)[1].tolist() for step in (0, 1, 2)] == [
        [4, 1, 0, 5, 8],
        [7, 9, 6, 2, 3],
        [0, 7, 6, 1, 3],
    ]
    drawn = seeded_rng(0, "augmentation", 3).integers(100, size=4)
    assert drawn.tolist() == [41, 38, 69, 30]


def test_batch_arguments_are_checked() -> None:
    data = numbered(5)

    def make(size: int, augment: Augmentation | None = None, seed: int = 0) -> Batches:
        return Batches(data.train, data, size, seed, augment=augment)

    assert "at most 5" in refusal(make, 6)
    assert ">= 1" in refusal(make, 0)
    assert ">= 0" in refusal(make, 2, seed=-1)
    assert "side of 6" in refusal(make, 2, Augmentation(cutout=6))
    assert "side of 6" in refusal(make, 2, Augmentation(crop_padding=6))
    assert "step" in refusal(make(5).batch, -1)
    assert "cutout" in refusal(Augmentation, cutout=-1)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_split_train_keeps_every_sample_once(count: int, fraction: float, seed: int) -> None:
    split = numbered(count, side=2).train
    size = round(fraction * count)
    if not 0 < size < count:
        assert "fraction" in refusal(split_train, split, fraction, seed)
        return
    first, second = split_train(split, fraction, seed)
    assert len(first) == size
    assert sorted([*first.targets, *second.targets]) == list(range(count))
    np.testing.assert_array_equal(first.inputs, split.inputs[first.targets])
    again, _ = split_train(split, fraction, seed)
    np.testing.assert_array_equal(again.targets, first.targets)


def test_split_train_is_random_and_checked() -> None:
    split = numbered(50).train
    first, _ = split_train(split, 0.5, 0)
    other, _ = split_train(split, 0.5, 1)
    assert len({tuple(first.targets), tuple(other.targets), tuple(range(25))}) == 3
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        assert "fraction" in refusal(split_train, split, fraction, 0)


def test_evaluation_batches_hold_all_samples_in_order() -> None:
    data = numbered(11)
    parts = list(evaluation_batches(data.test, data, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 3]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(11))
    images = torch.cat([images for images, _ in parts])
    assert torch.equal(images, data.normalise(data.test.inputs))
    assert "batch_size" in refusal(evaluation_batches, data.test, data, 0)


@pytest.mark.parametrize(
    "classes, words",
    [
        (("one", "one"), "two classes have the same name"),
        (("one", "\udcff"), "not text"),
    ],
)
def test_classes_that_cannot_be_told_apart_or_written_are_refused(classes, words) -> None:
    split = Split(np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(InputError, match=words):
        Dataset("x", classes, split, split)
