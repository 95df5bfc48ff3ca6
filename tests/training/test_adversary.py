"""The discriminator of generators: its losses and bounds, its steps, and bit-identical resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, load_dataset
from hwnas.errors import InputError
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.spaces import build_space
from hwnas.tasks import task_of
from hwnas.training.adversary import RATE, Adversary, Discriminator
from hwnas.training.train import Training, final_weights

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2, batch_size=16, optimizer="adamw", learning_rate=0.01, adversarial_weight=0.1
)
SIZES = {"input_channels": 3, "classes": 1, "image_size": [28, 28], "channels": 2, "layers": 0}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(latents=3, train_limit=64, test_limit=10)


def training(dataset: Dataset, config: TrainConfig = CONFIG) -> Training:
    torch.manual_seed(1)
    space = build_space("decoder", SIZES)
    network = space.network(space.architecture([0] * len(space.choices)))
    batches = Batches(dataset.train, dataset, config.batch_size, 5, augment=None)
    return Training(network, config, batches, seed=11, loss_of=task_of(dataset).loss)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 2, 2), (1, 4, 50), (2, 66, 96)])
def test_images_of_any_sides_have_one_value(shape) -> None:
    assert Discriminator(*shape)(torch.rand(3, *shape)).shape == (3, 1)


def test_no_layer_can_lengthen_a_difference() -> None:
    """Largest singular values in float64, of the linear maps of flattened weights."""
    torch.manual_seed(0)
    network = Discriminator(1, 8, 8)
    for _ in range(50):  # each forward pass is a step of the power iteration
        network(torch.rand(2, 1, 8, 8))
    weighted = [m for m in network.layers if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 2
    for module in weighted:
        values = torch.linalg.svdvals(module.weight.detach().double().flatten(1))
        assert values[0] == pytest.approx(1, abs=1e-3)


def test_the_losses_are_those_of_hinges() -> None:
    adversary = Adversary((1, 4, 4), CPU, seed=0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    noise, real = torch.randn(5, 3, 1, 1), torch.rand(5, 1, 4, 4)
    adversary.discriminator.eval()  # so that the weights' norms stay as they are
    judged = adversary.discriminator(network(noise)).flatten().tolist()
    found = adversary.loss(network, noise)
    assert found.item() == pytest.approx(-sum(judged) / 5, rel=1e-5)
    truth = adversary.discriminator(real).flatten().tolist()
    expected = sum(max(0, 1 - v) for v in truth) / 5 + sum(max(0, 1 + v) for v in judged) / 5
    assert adversary.learn(real, 0.0) == pytest.approx(expected, rel=1e-5)


def test_each_side_learns_from_its_own_loss_alone() -> None:
    adversary = Adversary((1, 4, 4), CPU, seed=0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    adversary.loss(network, torch.randn(5, 3, 1, 1)).backward()
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    given = [p.grad.clone() for p in network.parameters()]
    assert all(grad.abs().sum() > 0 for grad in given)
    before = [p.detach().clone() for p in adversary.discriminator.parameters()]
    adversary.learn(torch.rand(5, 1, 4, 4), 0.02)
    assert all(
        torch.equal(p.grad, grad) for p, grad in zip(network.parameters(), given, strict=True)
    )
    changes = zip(adversary.discriminator.parameters(), before, strict=True)
    # Adam's first step has the length of its learning rate.
    largest = max((after - start).abs().max().item() for after, start in changes)
    assert largest == pytest.approx(RATE * 0.02, rel=1e-3)


def test_a_discriminator_learns_to_tell_images_apart() -> None:
    adversary = Adversary((1, 8, 8), CPU, seed=0)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        dark = 0.3 * torch.rand(16, 1, 8, 8, generator=rng)
        adversary.loss(nn.Identity(), dark)
        losses.append(adversary.learn(dark + 0.5, 0.02))
    assert losses[0] > 1.5
    assert losses[-1] < 0.1


def test_resumed_training_is_bit_identical(dataset, tmp_path) -> None:
    whole = training(dataset)
    records = [whole.advance() for _ in range(whole.steps)]
    assert all(record["discriminator_loss"] > 0 for record in records)
    part = training(dataset)
    for _ in range(3):
        part.advance()
    save_checkpoint(tmp_path, "train", part.step, part.state_dict())
    torch.manual_seed(99)
    resumed = training(dataset)
    torch.rand(17)  # other uses of the global generator must not matter
    loaded = load_checkpoint(tmp_path, "train")
    assert loaded is not None
    resumed.load_state_dict(loaded[1])
    assert [resumed.advance() for _ in range(whole.steps - 3)] == records[3:]
    found = resumed.average.state_dict()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(found[name], value), name


def test_the_deployed_network_is_the_same_without_a_discriminator(dataset) -> None:
    with_one, without = (
        training(dataset, CONFIG.model_copy(update={"adversarial_weight": weight}))
        for weight in (0.1, 0.0)
    )
    records = [one.advance() for one in (with_one, without)]
    assert records[0]["loss"] != records[1]["loss"]
    assert "discriminator_loss" not in records[1]
    assert final_weights(with_one.average).keys() == final_weights(without.average).keys()


def test_networks_that_make_no_images_are_refused(dataset) -> None:
    made = training(dataset, CONFIG.model_copy(update={"adversarial_weight": 0.0}))
    made.network.drop_training_parts()
    with pytest.raises(InputError, match="train.adversarial_weight.*expected 0, got 0.1"):
        Training(made.network, CONFIG, made.batches, seed=0)
