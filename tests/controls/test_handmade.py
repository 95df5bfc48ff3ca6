"""Hand-made networks fit the data of a search space and the budget."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.controls.handmade import DARTS_V2, FAMILIES, channels
from hwnas.controls.scaling import widest_within
from hwnas.errors import InputError
from hwnas.spaces import build_space
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions


def parameters(network: Network) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "sizes,output",
    [
        ({"input_channels": 1, "height": 9, "width": 11}, (2, 3)),
        ({"height": 28, "width": 28}, (2, 3)),
        ({"height": 64, "width": 70, "head": "dense"}, None),
        ({"height": 32, "width": 32, "head": "upsampled"}, (2, 3, 32, 32)),
    ],
)
def test_networks_have_the_inputs_and_the_head_of_the_space(
    name: str, sizes: dict[str, object], output: tuple[int, ...] | None
) -> None:
    options = SpaceOptions.model_validate({"classes": 3, **sizes})
    network = FAMILIES[name].build(options, FAMILIES[name].step).eval()
    outputs = network(torch.zeros(2, *options.input_shape))
    assert outputs.shape[:2] == (2, 3)
    assert output is None or outputs.shape == output


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wider_network_has_more_parameters(name: str) -> None:
    options, family = SpaceOptions(height=16, width=16), FAMILIES[name]
    sizes = [parameters(family.build(options, w * family.step)) for w in (4, 8, 16, 32)]
    assert sizes == sorted(set(sizes))


def test_the_resnet_of_width_16_is_that_of_the_paper_with_8_weight_layers() -> None:
    network = FAMILIES["resnet"].build(SpaceOptions(height=16, width=16), 16)
    # Table 6 of the paper: 16, 32 and 64 channels; here with projections as shortcuts.
    stem = 3 * 16 * 9 + 2 * 16
    first = 2 * (16 * 16 * 9 + 2 * 16)
    second = 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32 + 3 * 2 * 32
    third = 32 * 64 * 9 + 64 * 64 * 9 + 32 * 64 + 3 * 2 * 64
    assert parameters(network) == stem + first + second + third + 64 * 10 + 10


def test_the_darts_cells_of_a_space_of_darts_cells_are_as_many_and_as_published() -> None:
    space = tiny_space("darts", cells=4, stem_multiplier=2)
    network = FAMILIES["darts-v2"].build(space.options, 8)
    same = build_space("darts", space.options.model_dump() | {"channels": 8})
    assert same.to_genotype(same.from_genotype(DARTS_V2))["normal"][-1] == ["dil_conv_3x3", 2]
    assert parameters(network) == parameters(same.network(same.from_genotype(DARTS_V2)))


@pytest.mark.parametrize(
    "sizes", [{"vocabulary": 50, "width": 20, "height": 1}, {"height": 1, "width": 30}]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_other_inputs_than_images_are_refused(name: str, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="hand-made networks read images"):
        FAMILIES[name].build(SpaceOptions.model_validate(sizes), 8)


def test_channels_are_multiples_of_four() -> None:
    assert [channels(width) for width in (1, 5, 7, 8, 30)] == [4, 4, 8, 8, 32]


@pytest.mark.parametrize("most", [1, 3, 8, 11, 16, 37])
def test_the_widest_network_within_a_budget_is_found(most: int) -> None:
    family, options = FAMILIES["resnet"], SpaceOptions(height=8, width=8)
    budget = parameters(family.build(options, most))
    found = widest_within(family, options, lambda network: parameters(network) <= budget)
    assert found is not None
    assert parameters(family.build(options, found)) <= budget
    assert parameters(family.build(options, found + 1)) > budget


def test_no_width_where_the_narrowest_network_exceeds_the_budget() -> None:
    assert widest_within(FAMILIES["darts-v2"], SpaceOptions(), lambda network: False) is None
