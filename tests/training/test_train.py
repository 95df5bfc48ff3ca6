"""Training: auxiliary head, learning rate schedule, bit-identical resuming, learning success."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.config import TrainConfig
from hwnas.data import Augmentation, Batches, Dataset, Split
from hwnas.errors import InputError
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.tasks import task_of
from hwnas.training.evaluate import evaluate
from hwnas.training.schedule import cosine
from hwnas.training.train import Training, final_weights

CONFIG = TrainConfig(
    epochs=2, batch_size=8, learning_rate=0.05, drop_path=0.3, auxiliary_weight=0.4, cutout=2
)


@pytest.fixture
def dataset() -> Dataset:
    """Images whose class is the position of a bright stripe, which is learnt in a few steps."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = rng.integers(0, 60, (48, 1, 9, 7), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, 0, 3 * label : 3 * label + 3] += 150
    split = Split(images, labels.astype(np.int64))
    return Dataset("stripes", ("top", "middle", "bottom"), split, split)


def training(dataset: Dataset, space: str, config: TrainConfig = CONFIG) -> Training:
    torch.manual_seed(1)
    built = tiny_space(space)
    network = built.network(built.sample(np.random.default_rng(3)))
    augment = Augmentation(0, True, config.cutout)
    batches = Batches(dataset.train, dataset, config.batch_size, 5, augment=augment)
    return Training(network, config, batches, seed=11)


def test_auxiliary_weight_without_an_auxiliary_head_is_refused(dataset) -> None:
    with pytest.raises(InputError, match="train.auxiliary_weight"):
        training(dataset, "nasbench201")


@pytest.mark.parametrize(
    "space, auxiliary_weight, optimizer",
    [("darts", 0.4, "sgd"), ("nasbench201", 0.0, "sgd"), ("vit", 0.0, "adamw")],
)
def test_resumed_training_is_bit_identical(
    dataset, space, auxiliary_weight, optimizer, tmp_path
) -> None:
    config = CONFIG.model_copy(
        update={"auxiliary_weight": auxiliary_weight, "optimizer": optimizer}
    )
    whole = training(dataset, space, config)
    while whole.step < whole.steps:
        whole.advance()
    part = training(dataset, space, config)
    for _ in range(5):
        part.advance()
    save_checkpoint(tmp_path, "train", part.step, part.state_dict())
    torch.manual_seed(99)
    resumed = training(dataset, space, config)
    torch.rand(17)  # other uses of the global generator must not matter
    loaded = load_checkpoint(tmp_path, "train")
    assert loaded is not None
    resumed.load_state_dict(loaded[1])
    while resumed.step < resumed.steps:
        resumed.advance()
    found = resumed.average.state_dict()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "space, optimizer", [pytest.param("darts", "sgd", marks=pytest.mark.slow), ("vit", "adamw")]
)
def test_training_learns_separable_classes(dataset, space, optimizer) -> None:
    update = {"epochs": 12, "drop_path": 0.0, "cutout": 0, "ema_decay": 0.9, "optimizer": optimizer}
    if space == "vit":
        update["auxiliary_weight"] = 0.0
    learner = training(dataset, space, CONFIG.model_copy(update=update))
    while learner.step < learner.steps:
        learner.advance()
    assert evaluate(learner.average, task_of(dataset), torch.device("cpu"))["accuracy"] > 0.9


def test_final_weights_exclude_the_auxiliary_head(dataset) -> None:
    learner = training(dataset, "darts")
    learner.advance()
    names = set(final_weights(learner.average))
    assert names
    assert not any(name.startswith("auxiliary") for name in names)
    plain = training(dataset, "darts", CONFIG.model_copy(update={"auxiliary_weight": 0.0}))
    assert set(final_weights(plain.average)) == names


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [cosine(0.4, 0.1, step / 100, warmup=0.25) for step in range(101)]
    assert rates[0] < 0.01
    assert rates[25] == pytest.approx(0.4)
    assert rates[100] == pytest.approx(0.1)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
