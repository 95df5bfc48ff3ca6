"""The chapter on the data: samples as they are and augmented, of every kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from hwnas.data import Augmentation, load_dataset
from hwnas.errors import InputError
from hwnas.reporting.data import TrainingSamples, data_section
from hwnas.training.shown_samples import shown_samples

AUGMENTED = {
    "fashion-mnist-slice": {"flip": True, "mixup": 0.5},
    "generated-detection": {"scale": 0.3, "crop_padding": 4},
    "generated-segmentation": {"scale": 0.3, "flip": True},
    "generated-keywords": {"time_mask": 9, "frequency_mask": 5},
    "generated-signals": {"noise": 0.5, "time_shift": 6},
    "generated-likes": {"noise": 0.5, "mixup": 0.2},
    "generated-text": {"token_dropout": 0.5},
}


LONG = ("generated-keywords", "generated-segmentation")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in AUGMENTED]
)
def test_each_part_of_the_augmentation_is_shown(name: str, tmp_path: Path) -> None:
    data, parts = load_dataset(name, train_limit=60, test_limit=10), AUGMENTED[name]
    path = tmp_path / "training_samples.npz"
    path.write_bytes(shown_samples(data, Augmentation(**parts), 0, f"{name}: 60 samples"))
    found = TrainingSamples.read(path)
    names = [f"{key} = {str(value).lower()}" for key, value in parts.items()]
    together = ["all together"] if len(names) > 1 else []
    assert sorted(found.parts) == sorted(["as they are", *names, *together])
    shown = found.images if found.texts is None else found.texts
    first = found.parts.index("as they are")
    for place, part in enumerate(found.parts):
        assert (part == "as they are") == bool(np.array_equal(shown[place], shown[first]))
    page = str(data_section(found)[0].content)
    assert f"{name}: 60 samples" in page
    for part in found.parts[1:]:
        assert f"Training samples: {part[0].upper()}{part[1:]}" in page
    if found.images is not None:
        assert page.count("data:image/png") == found.images.shape[0] * found.images.shape[1]
    if "mixup" in parts:
        assert "%" in str(found.labels[found.parts.index(names[-1])])


def test_there_is_no_chapter_before_training(tmp_path: Path) -> None:
    assert data_section(TrainingSamples.read(tmp_path / "training_samples.npz")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"parts": np.array(["as they are"] * 3)},
        {"labels": np.zeros((1, 8))},
        {"images": np.zeros((1, 8, 2, 5, 5), np.uint8)},
        {"images": np.zeros((1, 8, 1, 5, 5000), np.uint8)},
        {"images": np.zeros((1, 8, 1, 5, 5), np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict, tmp_path: Path) -> None:
    data = load_dataset("fashion-mnist-slice", train_limit=20, test_limit=10)
    arrays = dict(np.load(io.BytesIO(shown_samples(data, Augmentation(), 0, "words"))))
    path = tmp_path / "training_samples.npz"
    np.savez(path, **arrays | change)
    with pytest.raises(InputError, match="do not belong together"):
        TrainingSamples.read(path)
