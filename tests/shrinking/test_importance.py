"""Importance of channels and blocks, against what the loss does without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.plain_networks import ResNet, TwoInputs
from torch import Tensor, nn

from hwnas.shrinking.channels import channel_groups
from hwnas.shrinking.importance import block_importance, mean_loss, unit_importance


def mean_of_first(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is linear in the outputs."""
    return outputs[:, 0].mean()


def test_taylor_importance_is_exact_where_the_loss_is_linear_in_the_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Conv2d(5, 3, 1), nn.Flatten())
    model = model.double().eval()
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    groups, _ = channel_groups(model, (x,))
    found = unit_importance(model, groups, [((x[:4],), x[:4]), ((x[4:],), x[4:])], mean_of_first)[
        "0"
    ]
    with torch.no_grad():
        whole = model(x)[:, 0]
        for unit in range(5):
            without = copy.deepcopy(model)
            without[2].weight[:, unit] = 0
            change = (without(x)[:, 0] - whole).abs().mean()
            assert found[unit] == pytest.approx(change.item())


def test_changes_through_several_readers_are_added() -> None:
    """Two readers that cancel each other: the channel is worth nothing."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.plus = nn.Linear(3, 4), nn.Linear(4, 2)
            self.minus = nn.Linear(4, 2)
            self.minus.load_state_dict({k: -v for k, v in self.plus.state_dict().items()})

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.plus(x) + self.minus(x)

    torch.manual_seed(0)
    model, x = Cancelling(), torch.randn(8, 3)
    groups, _ = channel_groups(model, (x,))
    found = unit_importance(model, groups, [((x,), x)], mean_of_first)["first"]
    np.testing.assert_allclose(found, 0, atol=1e-6)


@pytest.mark.parametrize("criterion", ["magnitude", "batch-norm"])
def test_other_criteria_order_the_channels_and_keep_the_sum_of_a_group(criterion) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Flatten())
    with torch.no_grad():
        for layer in (model[0], model[1]):
            layer.weight.copy_(torch.tensor([3.0, 1, 4, 2]).reshape(layer.weight.shape))
        model[2].weight.fill_(1)
    x = torch.randn(8, 1, 1, 1)
    groups, _ = channel_groups(model.eval(), (x,))
    taylor = unit_importance(model, groups, [((x,), x)], mean_of_first)["0"]
    found = unit_importance(model, groups, [((x,), x)], mean_of_first, criterion)["0"]
    assert found.argsort().tolist() == [1, 3, 0, 2]
    assert found.sum() == pytest.approx(taylor.sum())


def test_a_block_is_worth_what_the_loss_rises_without_it() -> None:
    torch.manual_seed(0)
    model = ResNet(2, widths=(4, 4, 4)).eval()
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4)
    with torch.no_grad():  # a block that adds nothing
        model.get_submodule("stages.0.1.bn2").weight.zero_()
    loss = nn.functional.cross_entropy
    found = block_importance(model, ["stages.0.0", "stages.0.1"], [((x,), y)], loss)
    assert found["stages.0.1"] == pytest.approx(0, abs=1e-6)
    without = copy.deepcopy(model)
    without.stages[0][0] = nn.Identity()
    rise = mean_loss(without, [((x,), y)], loss) - mean_loss(model, [((x,), y)], loss)
    assert found["stages.0.0"] == pytest.approx(max(0.0, rise))


def test_weights_and_modes_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    model = TwoInputs(4).train()

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = model

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x[:, :1], x[:, 1:])

    one, x = One(), torch.randn(2, 3, 4, 4)
    before = copy.deepcopy(one.state_dict())
    groups, _ = channel_groups(one, (x,))
    unit_importance(one, groups, [((x,), x)], mean_of_first)
    assert one.training and all(p.requires_grad and p.grad is None for p in one.parameters())
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, before[name])
