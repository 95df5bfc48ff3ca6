"""Widened candidates against narrow ones on repeated inputs, and searches that widen."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.candidates import modules_of
from helpers.supernet_searches import (
    CONFIG,
    assert_same_weights,
    make_search,
    run_with_interruptions,
)
from helpers.tiny import tiny_space
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.errors import InputError
from hwnas.nn.mixed_edge import MixedOp
from hwnas.ops.cells import FactorizedReduce
from hwnas.pipeline.compatibility import check_partial_channels, check_strategy
from hwnas.spaces import SPACES
from hwnas.supernet.widening import partial_channels, widen
from hwnas.training.optimizer import build_optimizer

PROGRESSIVE = CONFIG.model_copy(
    update={
        "strategy": "drnas",
        "partial_channels": 4,
        "settings": {"drnas": {"learning_rate": 0.2, "prune_at": 0.5}},
    }
)

SMALL = {"darts": {"nodes": 1}, "nasbench201": {}}


def repeats(x: Tensor, channels: int) -> Tensor:
    return torch.stack([x[:, channel % x.shape[1]] for channel in range(channels)], dim=1)


def trained(space_name: str, channels: int, optimizer_name: str = "sgd"):
    """Return a supernet that mixes 1 in 4 channels, after a step of its optimiser."""
    torch.manual_seed(0)
    space = tiny_space(space_name, channels=channels, **SMALL[space_name])
    supernet = space.supernet(4).double().train()
    optimizer = build_optimizer(
        supernet, CONFIG.model_copy(update={"optimizer": optimizer_name, "learning_rate": 0.05})
    )
    mixture = Mixture(torch.rand(space.mask.shape, dtype=torch.float64))
    supernet(torch.randn(6, 1, 9, 7, dtype=torch.float64), mixture).square().sum().backward()
    optimizer.step()
    return supernet, optimizer


def mixed_ops(supernet) -> list[MixedOp]:
    return [module for module in supernet.modules() if isinstance(module, MixedOp)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [8, 12])
@pytest.mark.parametrize("space_name", ["darts", "nasbench201"])
def test_repeated_inputs_give_repeated_outputs_after_widening(
    space_name: str, channels: int, training: bool
) -> None:
    supernet, optimizer = trained(space_name, channels)
    before = copy.deepcopy(supernet).train(training)
    widen(supernet, optimizer, 2)
    supernet.train(training)
    assert partial_channels(supernet) == 2
    compared = set()
    for old, new in zip(mixed_ops(before), mixed_ops(supernet), strict=True):
        narrow = old.specs[0].c_in // 4
        wide = 2 * narrow
        x = torch.randn(5, narrow, 9, 7, dtype=torch.float64)
        for (name, candidate), wider in zip(
            modules_of(old).items(), modules_of(new).values(), strict=True
        ):
            found, y = wider(repeats(x, wide)), candidate(x)
            expected = repeats(y, wide)
            compared.add((name, old.stride))
            if isinstance(candidate, FactorizedReduce):
                if not training:
                    continue  # only its batch statistics are preserved
                halves = y.split([narrow // 2, narrow - narrow // 2], dim=1)
                sizes = (wide // 2, wide - wide // 2)
                expected = torch.cat(
                    [repeats(*half) for half in zip(halves, sizes, strict=True)], 1
                )
            torch.testing.assert_close(found, expected, msg=lambda text, name=name: name + text)
    assert len(compared) == (16 if space_name == "darts" else 5)


@pytest.mark.parametrize("space_name", ["darts", "nasbench201"])
def test_widening_and_a_momentum_step_commute(space_name: str) -> None:
    supernet, optimizer = trained(space_name, 8)
    outside = {
        name: value.clone() for name, value in supernet.state_dict().items() if "mixed" not in name
    }
    copies = copy.deepcopy((supernet, optimizer))
    courses = []
    for widens_first, (net, sgd) in ((True, (supernet, optimizer)), (False, copies)):
        if widens_first:
            widen(net, sgd, 2)
            assert all(torch.equal(net.state_dict()[name], outside[name]) for name in outside)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        sgd.step()
        if not widens_first:
            widen(net, sgd, 2)
        courses.append(net.state_dict())
    assert courses[0].keys() == courses[1].keys()
    for name, value in courses[0].items():
        torch.testing.assert_close(value, courses[1][name], rtol=1e-12, atol=1e-14)


def test_adamw_updates_of_copies_equal_those_of_the_originals() -> None:
    supernet, optimizer = trained("nasbench201", 8, "adamw")
    weight = mixed_ops(supernet)[0].nor_conv_3x3
    before = dict(optimizer.state[weight])
    widen(supernet, optimizer, 2)
    weight = mixed_ops(supernet)[0].nor_conv_3x3
    after = optimizer.state[weight]
    assert weight.shape == (4 * 4 * 3 * 3,)
    assert torch.equal(after["step"], before["step"])
    moves = [state["exp_avg"] / state["exp_avg_sq"].sqrt() for state in (before, after)]
    narrow, wide = (move.view(c, c, 3, 3) for move, c in zip(moves, (2, 4), strict=True))
    torch.testing.assert_close(wide, narrow.repeat(2, 2, 1, 1))
    assert {id(p) for p in supernet.parameters()} == set(map(id, optimizer.state))


@pytest.mark.parametrize(
    "space_name, more",
    [("darts", {"order": 2}), ("nasbench201", {"optimizer": "adamw"})],
)
def test_resumed_search_that_widens_is_bit_identical(space_name: str, more: dict, tmp_path) -> None:
    """It is resumed from a checkpoint before it widened, and then from one after."""
    config = PROGRESSIVE.model_copy(update=more)
    options = SMALL[space_name] | {"channels": 8}
    whole = make_search(space_name, config, **options)
    course = [whole.advance()["partial_channels"] for _ in range(config.steps)]
    assert course == [4] * 4 + [2] * 4
    resumed = run_with_interruptions(
        lambda: make_search(space_name, config, **options), tmp_path, 5, 7
    )
    assert torch.equal(resumed.strategy.ask().weights, whole.strategy.ask().weights)
    assert_same_weights(resumed.supernet, whole.supernet)


def test_supernet_stays_wide_if_the_strategy_is_reset() -> None:
    """The guard against collapse can reset a strategy to its state before the widening."""
    search = make_search("nasbench201", PROGRESSIVE, channels=8)
    early = copy.deepcopy(search.strategy.state_dict())
    while search.step < 6:
        search.advance()
    search.strategy.load_state_dict(early)
    search.advance()
    resumed = make_search("nasbench201", PROGRESSIVE, channels=8)
    resumed.load_state_dict(search.state_dict())
    assert partial_channels(search.supernet) == partial_channels(resumed.supernet) == 2


@pytest.mark.parametrize("space_name", sorted(set(SPACES) - {"decoder"}))
def test_supernet_without_partial_channels_is_not_widened(space_name: str) -> None:
    settings = {"drnas": {"prune_at": 0.2}}
    config = PROGRESSIVE.model_copy(update={"partial_channels": None, "settings": settings})
    search = make_search(space_name, config)
    before = {name: value.shape for name, value in search.supernet.state_dict().items()}
    for _ in range(3):
        search.advance()
    assert search.strategy.widening == 2
    assert before == {name: value.shape for name, value in search.supernet.state_dict().items()}


@pytest.mark.parametrize("space_name", sorted(SPACES))
def test_partial_channels_of_a_space_without_cells_are_refused(space_name: str) -> None:
    space = tiny_space(space_name)
    config = PROGRESSIVE.model_copy(update={"partial_channels": 2})
    if space_name in ("darts", "nasbench201"):
        check_partial_channels(config, space.supernet(2), "search")
        return
    with pytest.raises(InputError, match=r"search\.partial_channels.*expected 1.*2"):
        check_partial_channels(config, space.supernet(2), "search")


def test_widening_factor_must_divide_the_partial_channels() -> None:
    config = PROGRESSIVE.model_copy(update={"settings": {"drnas": {"widen": 3}}})
    with pytest.raises(InputError, match=r"drnas\.widen.*a divisor of partial_channels, 4"):
        check_strategy(config, "search")
