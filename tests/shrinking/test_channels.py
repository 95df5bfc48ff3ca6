"""Groups of channels: what a smaller network computes, and what has to stay."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.plain_networks import MobileNetV2, ResNet, SmallVit, TextLstm, TwoInputs, Vgg
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.shrinking.channels import ChannelGroup, channel_groups, narrowed

MAPS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2)]
NETWORKS = {
    "resnet": (lambda: ResNet(1, widths=(4, 6, 8)), (MAPS,)),
    "vgg": (lambda: Vgg(width=4), (MAPS,)),
    "mobilenet": (lambda: MobileNetV2(stages=STAGES, width=0.25), (MAPS,)),
    "lstm": (lambda: TextLstm(width=4), (torch.arange(14).reshape(2, 7),)),
    "two inputs": (lambda: TwoInputs(6), (MAPS[:, :1], MAPS[:, 1:])),
}


def randomised(model: nn.Module) -> nn.Module:
    """Running statistics and biases that are not those of a new network."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return model.eval().double()


def silenced(model: nn.Module, groups: list[ChannelGroup], kept: dict[str, list[int]]) -> nn.Module:
    """The whole network, in which nothing reads the channels that go."""
    model = copy.deepcopy(model)
    for group in groups:
        gone = set(range(group.units)) - set(kept[group.name])
        for one in group.slices:
            layer = model.get_submodule(one.layer)
            places = [p for unit in gone for p in one.places[unit]]
            with torch.no_grad():
                if isinstance(layer, nn.LSTM):
                    (layer.weight_ih_l0 if one.reads else layer.weight_hh_l0)[:, places] = 0
                elif one.reads:
                    layer.weight[:, places] = 0
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_computes_what_is_left_when_nothing_reads_the_others(name: str) -> None:
    make, inputs = NETWORKS[name]
    model = randomised(make())
    given = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    groups, left = channel_groups(model, given)
    assert len(left) == 1  # what the model returns
    rng = np.random.default_rng(0)
    kept = {
        g.name: sorted(rng.choice(g.units, size=max(1, g.units - 2), replace=False).tolist())
        for g in groups
    }
    smaller = narrowed(model, groups, kept)
    with torch.no_grad():
        torch.testing.assert_close(smaller(*given), silenced(model, groups, kept)(*given))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


def test_residual_layers_form_one_group_and_the_inside_of_a_block_another() -> None:
    groups, _ = channel_groups(ResNet(2, widths=(4, 6, 8)).eval(), (MAPS,))
    found = {group.name: (group.width, len(group.readers)) for group in groups}
    assert found["conv1"] == (4, 4)  # two blocks of the stage, the next block and its shortcut
    assert found["stages.0.1.conv1"] == (4, 1)
    assert len(found) == 3 + 6


def test_heads_and_groups_lose_equally_many_channels() -> None:
    groups, _ = channel_groups(SmallVit(width=16, side=8).eval(), (torch.randn(2, 1, 8, 8),))
    (stream,) = [group for group in groups if group.name == "patches"]
    assert (stream.unit, stream.units) == (4, 4)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1)
    )
    groups, _ = channel_groups(model.eval(), (MAPS,))
    smaller = narrowed(model, groups, {group.name: [1] for group in groups})
    assert smaller(MAPS).shape == model(MAPS).shape
    assert (smaller[2].in_channels, smaller[2].out_channels, smaller[2].groups) == (4, 4, 4)


class StatesItsSize(nn.Module):
    """Code that works with one number of channels only, and a branch that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).reshape(len(x), 8, -1)[..., None]
        return self.head(self.second(x).mean((2, 3)))


def test_what_cannot_go_stays_and_is_listed_with_the_reason() -> None:
    groups, left = channel_groups(StatesItsSize().eval(), (MAPS,))
    assert [group.name for group in groups] == ["second"]
    assert {one.name for one in left} == {"first", "head"}
    assert all(one.reason for one in left)


def test_a_model_that_does_not_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not run on inputs \(2, 3, 32, 32\)"):
        channel_groups(ResNet(1, channels=1, widths=(4, 6, 8)).eval(), (MAPS,))
