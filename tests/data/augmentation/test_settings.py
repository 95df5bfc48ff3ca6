"""Which augmentation suits which data, and what is said where it does not."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from hwnas.config.augmentation import AugmentationConfig
from hwnas.data import Augmentation, Batches, dataset_of, load_dataset
from hwnas.data.augmentation import PARTS, sample_kind
from hwnas.errors import InputError

VALUES = {
    "crop_padding": 2, "flip": True, "cutout": 3, "scale": 0.2, "random_erasing": 0.3,
    "rand_augment": 9, "mixup": 0.2, "cutmix": 1.0, "time_mask": 4, "frequency_mask": 3,
    "time_shift": 2, "noise": 0.1, "token_dropout": 0.1,
}  # fmt: skip
SUITING = {
    "fashion-mnist-slice": ("image", "crop_padding flip scale cutout random_erasing rand_augment "
                            "mixup cutmix noise"),
    "generated-segmentation": ("image", "crop_padding flip scale noise"),
    "generated-detection": ("image", "crop_padding flip scale noise"),
    "generated-keywords": ("sound", "mixup cutmix time_mask frequency_mask time_shift noise"),
    "generated-signals": ("signal", "mixup time_mask time_shift noise"),
    "generated-likes": ("table", "mixup noise"),
    "generated-disease": ("table", "noise"),
    "generated-ratings": ("table", "noise"),
    "generated-text": ("text", "token_dropout"),
    "generated-language": ("text", "token_dropout"),
}  # fmt: skip


LONG = ("generated-keywords", "generated-detection", "generated-segmentation")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in SUITING]
)
def test_every_task_has_augmentation_that_suits_it_and_refuses_all_other(name: str) -> None:
    kind, suiting = SUITING[name]
    more = {"categories": "embedding"} if name == "generated-disease" else {}
    data = load_dataset(name, train_limit=40, test_limit=10, **more)
    assert sample_kind(data) == kind
    for part, value in VALUES.items():
        augment = Augmentation(**{part: value})
        if part not in suiting.split():
            with pytest.raises(InputError) as error:
                augment.require_suits(data)
            assert str(error.value).startswith(f"{part}: augmentation that does not suit {kind}")
            assert suiting.split()[0] in str(error.value)
            continue
        inputs, targets = Batches(data.train, data, 10, 0, augment=augment).batch(1)
        plain, truth = Batches(data.train, data, 10, 0, augment=None).batch(1)
        assert inputs.shape == plain.shape
        assert not np.array_equal(inputs, plain), part
        if part in ("mixup", "cutmix"):
            assert targets.shape == (10, len(data.classes))
        else:
            assert (targets.shape, targets.dtype) == (truth.shape, truth.dtype)
        if data.categories:
            np.testing.assert_array_equal(inputs[:, -2:], plain[:, -2:])


def test_settings_and_parts_have_the_same_names() -> None:
    names = {field.name for field in fields(Augmentation)}
    assert names == set(PARTS) == set(AugmentationConfig.model_fields) == set(VALUES)
    assert Augmentation.of(AugmentationConfig(**VALUES)) == Augmentation(**VALUES)
    assert Augmentation.of(AugmentationConfig()) == Augmentation()


def test_samples_with_several_inputs_are_not_augmented(rng) -> None:
    inputs = {"a": rng.standard_normal((30, 4)), "b": rng.standard_normal((30, 5))}
    data = dataset_of((inputs, np.arange(30) % 2))
    with pytest.raises(InputError, match=r"noise: .*several inputs.*expected none"):
        Augmentation(noise=0.1).require_suits(data)


@pytest.mark.parametrize(
    "part, value, words",
    [
        ("time_mask", 64, "whole samples"),
        ("time_shift", 99, "less than the side of 64"),
        ("scale", 1.5, "0 to 0.9"),
        ("rand_augment", 31, "0 to 30"),
        ("noise", -0.1, "the size is negative"),
    ],
)
def test_numbers_out_of_range_are_refused(part: str, value: float, words: str) -> None:
    data = load_dataset("generated-signals", train_limit=20, test_limit=10)
    with pytest.raises(InputError, match=words):
        Augmentation(**{part: value}).require_suits(data)
