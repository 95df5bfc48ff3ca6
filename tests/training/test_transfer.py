"""First weights from other networks, teachers, and recalibrated batch norms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwnas.training.first_weights import take_weights
from hwnas.training.recalibration import recalibrate_norms
from hwnas.training.teacher import Distillation, Features


def test_first_channels_are_taken_where_sizes_differ() -> None:
    torch.manual_seed(0)
    narrow, wide = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Linear(2, 6)
    network = nn.Sequential(wide, nn.Linear(4, 2), nn.Linear(2, 2))
    new = network[2].weight.clone()
    report = {one.name: one.taken for one in take_weights(network, narrow.state_dict())}
    assert report == {
        "0.weight": "part", "0.bias": "part", "1.weight": "whole", "1.bias": "whole",
        "2.weight": "nothing", "2.bias": "nothing",
    }  # fmt: skip
    torch.testing.assert_close(network[0].weight[:4], narrow[0].weight[:, :2])
    torch.testing.assert_close(network[1].weight, narrow[1].weight)
    torch.testing.assert_close(network[2].weight, new)


def test_the_prefix_of_own_models_does_not_matter() -> None:
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    report = take_weights(network, {f"model.{k}": v for k, v in other.state_dict().items()})
    assert {one.taken for one in report} == {"whole"}
    torch.testing.assert_close(network.weight, other.weight)


def test_distillation_is_the_divergence_from_softened_probabilities() -> None:
    torch.manual_seed(0)
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 3, dtype=torch.float64)
    own = F.cross_entropy(student, torch.arange(5) % 3)
    found = Distillation(lambda x: teacher, 0.3, 2.0).loss(student, student, own)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    assert found.item() == pytest.approx((0.7 * own + 0.3 * 4 * divergence).item())
    squared = Distillation(lambda x: teacher, 1.0, tells_classes=False)
    assert squared.loss(student, student, own).item() == pytest.approx(
        (student - teacher).square().mean().item()
    )


def test_an_equal_teacher_adds_no_gradient() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    loss = Distillation(lambda x: student.detach(), 1.0).loss(student, student, student.sum())
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_features_of_equal_shape_are_compared_at_unit_length() -> None:
    torch.manual_seed(0)

    def network(hidden: int) -> nn.Module:
        inner = nn.Sequential(nn.Conv1d(2, hidden, 1), nn.Conv1d(hidden, 3, 1))
        return nn.Sequential(inner, nn.Conv1d(3, hidden, 1), nn.Flatten())

    student, teacher, x = network(2), network(4), torch.randn(5, 2, 6)
    features = Features(student, teacher, x, 0.5)
    assert features.paths == ["0"]  # the convolutions inside and behind have other widths
    features.watch(student)
    outputs, _ = student(x), teacher(x)
    units = [F.normalize(one[0](x).flatten(1), dim=1) for one in (student, teacher)]
    expected = (units[0] - units[1]).square().sum(1).mean()
    torch.testing.assert_close(features.distance(), expected)
    found = Distillation(lambda x: outputs.detach(), 1.0, features=features, tells_classes=False)
    torch.testing.assert_close(found.loss(x, outputs, outputs.sum()), 0.5 * expected)


def test_recalibrated_statistics_are_those_of_all_batches() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3)).eval()
    network[0].momentum = 0.7
    x = torch.randn(4, 50, 3) * 3 + 1
    recalibrate_norms(network, [(batch,) for batch in x])
    mean, variance = x.mean((0, 1)), torch.stack([b.var(0) for b in x]).mean(0)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    torch.testing.assert_close(network[2].running_mean, torch.zeros(3), atol=1e-5, rtol=0)
    assert network[0].momentum == 0.7 and not network.training
    copied = copy.deepcopy(network.state_dict())
    recalibrate_norms(nn.Linear(2, 2), [])
    assert copied.keys() == network.state_dict().keys()
