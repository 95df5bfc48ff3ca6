"""The guard against collapse: eigenvalue, reset of the strategy, and the search afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.supernet_searches import CONFIG, make_search
from helpers.tiny import table_of, tiny_space
from torch import Tensor

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.runs.checkpoints import save_checkpoint
from hwnas.strategies import build_strategy
from hwnas.supernet.guard import WINDOW, Guard, dominant_eigenvalue, max_skips_per_cell

SPACE = tiny_space("nasbench201")
DECODER = Decoder([Limit(CostModel(SPACE, table_of(SPACE)))])
SKIP = SPACE.choices[0].options.index("skip_connect")


def darts():
    return build_strategy("darts", SPACE, 0, {}, DECODER)


def no_gradient(weights: Tensor) -> Tensor:
    raise AssertionError("no gradient is needed without the eigenvalue test")


def test_skip_connections_are_counted_per_cell() -> None:
    space = tiny_space("darts")
    chosen = dict.fromkeys((c.name for c in space.choices), "none")
    for cell, skips in (("normal", 4), ("reduce", 3)):
        for node in range(2, 6):
            chosen[f"{cell}/0>{node}"] = "skip_connect" if node < 2 + skips else "sep_conv_3x3"
            chosen[f"{cell}/1>{node}"] = "max_pool_3x3"
    assert max_skips_per_cell(space.architecture(chosen)) == 4
    assert max_skips_per_cell(SPACE.architecture([SKIP, 0, SKIP, 2, SKIP, 3])) == 3


def test_dominant_eigenvalue_matches_the_exact_hessian() -> None:
    strategy = darts()
    with torch.no_grad():
        strategy.parameters.copy_(torch.randn(strategy.parameters.shape))
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(30, 30, generator=generator)
    root[0] *= 4
    matrix = root.T @ root

    def loss(weights: Tensor) -> Tensor:
        flat = weights.flatten()
        return 0.5 * flat @ matrix.to(flat) @ flat

    def of_parameters(parameters: Tensor) -> Tensor:
        return loss(parameters.view(6, 5).softmax(dim=1))

    hessian = torch.autograd.functional.hessian(
        of_parameters, strategy.parameters.detach().double().flatten()
    )
    values = torch.linalg.eigvalsh(hessian)
    expected = float(values[values.abs().argmax()])
    before = strategy.parameters.detach().clone()
    found = dominant_eigenvalue(
        strategy, lambda w: torch.autograd.grad(loss(w.requires_grad_()), w)[0]
    )
    assert found == pytest.approx(expected, rel=0.1)
    assert torch.equal(strategy.parameters.detach(), before)


def test_too_many_skip_connections_reset_the_architecture() -> None:
    guard, strategy = Guard(DECODER, 2, None), darts()
    assert guard.check(strategy, 10, no_gradient) == {}
    kept = strategy.parameters.detach().clone()
    with torch.no_grad():
        strategy.parameters[:, SKIP] = 5.0
    seen = guard.check(strategy, 20, no_gradient)
    assert seen == {"collapsed": "6 skip connections in a cell", "back_to_step": 10}
    assert guard.collapsed
    assert torch.equal(strategy.parameters.detach(), kept)


def test_growing_eigenvalue_is_a_collapse() -> None:
    guard, strategy = Guard(DECODER, 6, 1.3), darts()
    seen = {}
    for look in range(2 * WINDOW):
        scale = 1.0 if look < WINDOW else 2.0
        seen = guard.check(strategy, look, lambda w, s=scale: s * w)
        assert ("collapsed" in seen) == (look == 2 * WINDOW - 1)
        assert seen["eigenvalue"] == pytest.approx(guard.eigenvalues[-1])
    assert "eigenvalue grew by 2.0" in seen["collapsed"]
    assert seen["back_to_step"] == look - WINDOW


def test_first_check_never_resets_the_architecture() -> None:
    guard, strategy = Guard(DECODER, -1, None), darts()
    assert guard.check(strategy, 10, no_gradient) == {}
    assert not guard.collapsed


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_after_a_collapse_only_weights_are_trained(space: str, tmp_path) -> None:
    config = CONFIG.model_copy(update={"steps": 30})
    search = make_search(space, config)
    search.guard = Guard(Decoder([Limit(search.limits[0].cost)]), -1, None)
    records = [search.advance() for _ in range(20)]
    assert "collapsed" in records[19]
    assert "collapsed" not in records[9]
    save_checkpoint(tmp_path, "search", 20, search.state_dict())
    frozen = search.strategy.parameters.detach().clone()
    weights = copy.deepcopy(search.supernet.state_dict())
    assert search.advance()["validation_loss"] is None
    assert torch.equal(search.strategy.parameters.detach(), frozen)
    assert any(not torch.equal(v, weights[k]) for k, v in search.supernet.state_dict().items())


def test_guard_is_restored_from_a_checkpoint() -> None:
    search = make_search("nasbench201", CONFIG)
    search.guard = Guard(DECODER, 6, 1.3)
    for _ in range(4):
        search.advance()
    search.guard.check(search.strategy, 4, lambda w: w)
    state = search.state_dict()
    other = make_search("nasbench201", CONFIG)
    other.guard = Guard(DECODER, 6, 1.3)
    other.load_state_dict(state)
    assert other.guard.state_dict().keys() == search.guard.state_dict().keys()
    assert list(other.guard.eigenvalues) == list(search.guard.eigenvalues)
    assert [step for step, _ in other.guard.past] == [4]
