"""Networks of several sizes that share weights, against networks that have their own."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.plain_networks import MobileNetV2, ResNet, TextLstm, TwoInputs
from torch import nn

from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split
from hwnas.shrinking.channels import channel_groups, narrowed
from hwnas.shrinking.elastic import SharedNetwork, in_turn
from hwnas.shrinking.elastic_training import ElasticTraining
from hwnas.shrinking.space import remove_block
from hwnas.training.teacher import Distillation

MAPS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "resnet": (lambda: ResNet(2, widths=(4, 4, 6)), (MAPS,)),
    "mobilenet": (lambda: MobileNetV2(stages=[(1, 16, 1, 1), (6, 24, 2, 2)], width=0.25), (MAPS,)),
    "lstm": (lambda: TextLstm(width=4), (torch.arange(28).reshape(4, 7),)),
    "two inputs": (lambda: TwoInputs(6), (MAPS[:, :1], MAPS[:, 1:])),
}


def narrowing(model: nn.Module, inputs, seed: int = 0):
    """What takes away two units of each group, and a block of a ResNet."""
    groups, _ = channel_groups(model.eval(), inputs)
    rng = np.random.default_rng(seed)
    kept = {
        g.name: sorted(rng.choice(g.units, max(1, g.units - 2), replace=False).tolist())
        for g in groups
    }

    def narrow(module: nn.Module) -> nn.Module:
        smaller = narrowed(module, groups, kept)
        if isinstance(module, ResNet):
            remove_block(smaller, "stages.0.1")
        return smaller

    return narrow


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_weights_compute_and_learn_what_own_weights_do(name: str) -> None:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    whole = make()
    narrow = narrowing(whole, inputs)
    shared, own = SharedNetwork.of(whole, narrow), narrow(whole)
    for network in (shared.small, own):
        network.train()
    found, expected = shared(*inputs), own(*inputs)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    gradients = dict(whole.named_parameters())
    for parameter_name, parameter in own.named_parameters():
        places = shared.places[parameter_name]
        gradient = gradients[parameter_name].grad
        torch.testing.assert_close(gradient.flatten()[places], parameter.grad)
        assert gradient.count_nonzero() <= places.numel()


def test_a_separate_network_has_the_weights_of_that_moment() -> None:
    torch.manual_seed(0)
    whole = TwoInputs(6)
    inputs = (MAPS[:, :1], MAPS[:, 1:])
    shared = SharedNetwork.of(whole, narrowing(whole, inputs))
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.mul_(2)
    separate = shared.separate().eval()
    shared.small.eval()
    torch.testing.assert_close(separate(*inputs), shared(*inputs))


@pytest.mark.parametrize("networks, at_once", [(5, 2), (3, 2), (1, 2), (4, 4)])
def test_every_network_has_its_turn_equally_often(networks: int, at_once: int) -> None:
    steps = list(itertools.islice(in_turn(networks, at_once), networks))
    assert all(len(set(step)) == len(step) for step in steps)
    counts = Counter(place for step in steps for place in step)
    assert set(counts) == set(range(networks)) and len(set(counts.values())) == 1


def training() -> ElasticTraining:
    rng = np.random.default_rng(0)
    split = Split(rng.random((24, 3, 8, 8), np.float32), np.arange(24) % 10)
    classes = tuple("abcdefghij")
    data = Dataset("noise", classes, split, split).as_given()
    torch.manual_seed(0)
    whole = ResNet(1, widths=(4, 4, 6)).eval()
    sizes = [SharedNetwork.of(whole, narrowing(whole, (MAPS,), seed)) for seed in range(3)]
    teacher = ResNet(1, widths=(4, 4, 6)).eval()
    return ElasticTraining(
        whole,
        sizes,
        TrainConfig(epochs=2, batch_size=6, learning_rate=0.05),
        Batches(split, data, 6, 0, augment=None),
        lambda outputs, targets, smoothing: nn.functional.cross_entropy(outputs, targets),
        Distillation(teacher, 0.5),
        [lambda inputs: (inputs,)] * 3,
    )


def test_a_resumed_training_ends_with_the_same_weights() -> None:
    whole, first, rest = training(), training(), training()
    losses = [whole.advance()["loss"] for _ in range(8)]
    for _ in range(3):
        first.advance()
    rest.load_state_dict(first.state_dict())
    assert [rest.advance()["loss"] for _ in range(5)] == losses[3:]
    for one, other in zip(whole.finished(), rest.finished(), strict=True):
        for name, value in one.named_parameters():
            torch.testing.assert_close(value, other.get_parameter(name), rtol=0, atol=0)
