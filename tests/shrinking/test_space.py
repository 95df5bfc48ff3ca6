"""The space of smaller networks: its sizes and costs are those of the networks themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.plain_networks import MobileNetV2, ResNet, SmallVit, TextLstm, TwoInputs
from helpers.tiny import table_of
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.errors import InputError
from hwnas.shrinking.space import ShrinkSpace, offered_widths, shrink_space
from hwnas.shrinking.worth import Worth
from hwnas.spaces.traced.counting import count

MAPS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "resnet": (lambda: ResNet(2, widths=(4, 4, 8)), (MAPS,)),
    "mobilenet": (lambda: MobileNetV2(stages=[(1, 16, 1, 1), (6, 24, 2, 2)], width=0.25), (MAPS,)),
    "vit": (lambda: SmallVit(3, 16, width=16), (MAPS,)),
    "lstm": (lambda: TextLstm(width=4), (torch.arange(14).reshape(2, 7),)),
    "two inputs": (lambda: TwoInputs(6), (MAPS[:, :1], MAPS[:, 1:])),
}


@pytest.fixture(scope="module")
def spaces() -> dict[str, ShrinkSpace]:
    torch.manual_seed(0)
    return {
        name: shrink_space(make(), inputs, step=2, most_operators=60)
        for name, (make, inputs) in NETWORKS.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_network_of_every_architecture(name: str, spaces, rng) -> None:
    """Parameters and multiply-accumulates of the whole network, which is not taken apart."""
    space, inputs = spaces[name], NETWORKS[name][1]
    for architecture in [space.whole, *(space.sample(rng) for _ in range(3))]:
        module = space.module(architecture).eval()
        with torch.no_grad():
            expected = count(module, inputs)
        assert space.params_and_macs(architecture) == expected


def test_the_decoder_finds_what_enumeration_finds(spaces, rng) -> None:
    space = spaces["two inputs"]
    cost = CostModel(space, table_of(space))
    groups = list(space.groups.values())
    units = {group.name: rng.random(group.units) for group in groups}
    worth = Worth.of(space, space.whole, groups, units, {})
    options = [range(len(choice.options)) for choice in space.choices]
    every = [space.architecture(list(chosen)) for chosen in itertools.product(*options)]
    latency_ms, _ = cost.predict(every)
    scores = [worth.of_architecture(space, architecture) for architecture in every]
    for budget_ms in np.quantile(latency_ms, [0.1, 0.4, 0.8]):
        (found,) = worth.best(Decoder([Limit(cost, float(budget_ms))]))
        best = max(s for s, ms in zip(scores, latency_ms, strict=True) if ms <= budget_ms)
        assert worth.of_architecture(space, found) == pytest.approx(best)
        assert cost.latency_ms(found) <= budget_ms * (1 + 1e-9)


def test_a_removed_block_takes_its_widths_with_it(spaces) -> None:
    space = spaces["resnet"]
    assert list(space.blocks) == [f"stages.{k}" for k in ("0.0", "0.1", "1.1", "2.1")]
    path, row = "stages.1.1", space.blocks["stages.1.1"]
    chosen = space.chosen(space.whole)
    chosen[row] = 1
    architecture = space.architecture(chosen)
    assert space.removed(architecture) == [path]
    assert f"{path}.conv1" in space.widths(space.whole)
    assert f"{path}.conv1" not in space.widths(architecture)
    module = space.module(architecture)
    assert isinstance(module.get_submodule(path), nn.Identity)
    assert type(module) is ResNet


def test_the_most_important_channels_stay(spaces) -> None:
    space = spaces["two inputs"]
    groups = list(space.groups.values())
    group = next(g for g in groups if g.name == "left.0")
    importance = {g.name: np.arange(g.units, dtype=float) for g in groups}
    names = {choice.name: choice.options[-1] for choice in space.choices}
    architecture = space.architecture(names | {"left.0": "2"})
    smaller = space.shrunk(space.model, groups, architecture, importance)
    torch.testing.assert_close(
        smaller.get_submodule("left.0").weight, space.model.get_submodule("left.0").weight[-2:]
    )
    assert group.width == 6


def test_what_is_gone_stays_gone(spaces) -> None:
    space = spaces["two inputs"]
    cost = CostModel(space, table_of(space))
    smaller = space.architecture([0] * len(space.choices))
    groups = list(space.groups.values())
    units = {group.name: np.ones(space.widths(smaller)[group.name]) for group in groups}
    kept = [next(g for g in _groups_of(space, smaller) if g.name == group.name) for group in groups]
    worth = Worth.of(space, smaller, kept, units, {})
    assert worth.best(Decoder([Limit(cost)])) == [smaller]


def _groups_of(space: ShrinkSpace, architecture) -> list:
    from hwnas.shrinking.channels import channel_groups

    return channel_groups(space.module(architecture).eval(), (MAPS[:, :1], MAPS[:, 1:]))[0]


@pytest.mark.parametrize(
    "width, unit, most, step, expected",
    [
        (64, 1, 8, 16, (16, 32, 48, 64)),
        (64, 1, 3, 16, (16, 48, 64)),
        (16, 1, 8, 16, (4, 8, 12, 16)),
        (20, 4, 8, 8, (4, 8, 12, 16, 20)),
        (640, 1, 4, 16, (80, 352, 624, 640)),
        (1, 1, 8, 16, (1,)),
    ],
)
def test_offered_widths(width, unit, most, step, expected) -> None:
    from hwnas.shrinking.channels import ChannelGroup, Slice

    one = Slice("layer", lambda layer, places: layer, ((0,),) * (width // unit), False)
    assert offered_widths(ChannelGroup("layer", unit, (one,)), most, step) == expected


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = -x
        return self.last(self.conv(x)).mean((2, 3))


def test_a_model_that_cannot_be_traced_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"test_space\.py:\d+: the model cannot be traced"):
        shrink_space(DependsOnValues(), MAPS)


def test_a_part_that_cannot_be_traced_is_one_layer() -> None:
    model = nn.Sequential(DependsOnValues(), nn.Linear(2, 2))
    space = shrink_space(model, MAPS, step=2)
    assert list(space.widths(space.whole)) == ["0.conv"]


def test_a_model_of_which_nothing_can_go_is_refused() -> None:
    with pytest.raises(InputError, match="nothing can be taken away"):
        shrink_space(nn.Linear(4, 2), torch.zeros(2, 4))


@pytest.fixture(scope="module")
def resized() -> ShrinkSpace:
    """ResNet with two widths of each group, whose inputs may be smaller."""
    torch.manual_seed(0)
    model = ResNet(1, widths=(4, 4, 8)).eval()
    return shrink_space(model, MAPS, step=2, most_operators=120, resolutions=[0.5, 0.75, 0.751])


def test_layers_at_each_size_add_up_to_the_network(resized, rng) -> None:
    assert resized.sizes == ((8, 8), (12, 12), (16, 16))
    assert resized.choices[resized.size_row].options == ("8x8", "12x12", "16x16")
    for option, size in enumerate(resized.sizes):
        architecture = resized.at_size(resized.sample(rng), option)
        plain = resized.network(architecture).plain()
        given = MAPS if size == (16, 16) else F.interpolate(MAPS, size, mode="bilinear")
        module = resized.module(architecture).eval()
        with torch.no_grad():
            torch.testing.assert_close(plain(MAPS), module(given), rtol=1e-4, atol=1e-5)
            expected = count(module, (given,))
        assert resized.params_and_macs(architecture) == expected
    assert resized.chosen(resized.whole)[resized.size_row] == 2
    measured = [one.name for one in resized.options.measured]
    resizing = [
        part.literals
        for part in resized.options.conditional
        if any("upsample" in measured[number].lower() for number in part.operators)
    ]
    assert resizing == [((resized.size_row, (option,)),) for option in (0, 1)]


def test_the_size_is_chosen_where_it_loses_less_than_channels(resized) -> None:
    cost = CostModel(resized, table_of(resized))
    groups = list(resized.groups.values())
    units = {group.name: np.ones(group.units) for group in groups}
    blocks = dict.fromkeys(resized.blocks, 9.0)
    budget_ms = 0.9 * cost.latency_ms(resized.whole)
    for sizes, smaller in (((1e-3, 0.0, 0.0), True), ((1e6, 1e6, 0.0), False)):
        worth = Worth.of(resized, resized.whole, groups, units, blocks, sizes)
        (found,) = worth.best(Decoder([Limit(cost, budget_ms)]))
        assert (resized.chosen(found)[resized.size_row] < 2) == smaller


def test_networks_that_need_one_size_are_refused_with_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    with pytest.raises(InputError, match=r"8x8: shrink\.resolutions, at 3|at 3.*pools maps"):
        shrink_space(model, MAPS, resolutions=[0.5])
    with pytest.raises(InputError, match="only images"):
        shrink_space(TextLstm(width=4), torch.arange(14).reshape(2, 7), resolutions=[0.5])
    with pytest.raises(InputError, match=r"outputs \(2, 4, 8, 8\)"):
        shrink_space(nn.Conv2d(3, 4, 1), MAPS, resolutions=[0.5])
