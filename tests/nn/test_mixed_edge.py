"""The candidates of an edge have few tensors, and a state dict with the names of their modules."""

from __future__ import annotations

import pytest
import torch
from helpers.candidates import modules_of
from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp
from hwnas.ops import build_candidate
from hwnas.spaces import darts, nasbench201

SPACES = {"darts": (darts.PRIMITIVES, True), "nasbench201": (nasbench201.PRIMITIVES, False)}


def mixed_op(space: str = "darts", channels: int = 6, stride: int = 1, seed: int = 0) -> MixedOp:
    torch.manual_seed(seed)
    names, normalise_pools = SPACES[space]
    specs = [OpSpec(name, channels, channels, 8, 8, stride) for name in names]
    return MixedOp(specs, normalise_pools=normalise_pools)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_and_names_are_those_of_the_modules(space, stride) -> None:
    found = mixed_op(space, stride=stride).state_dict()
    torch.manual_seed(0)
    names, normalise_pools = SPACES[space]
    modules = nn.ModuleDict({
        name: build_candidate(OpSpec(name, 6, 6, 8, 8, stride), normalise_pools=normalise_pools)
        for name in names
    })  # fmt: skip
    expected = {
        f"candidates.{name}": tensor
        for name, tensor in modules.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_there_are_few_tensors() -> None:
    assert len(list(mixed_op().parameters())) == 4
    assert [tuple(t.shape) for t in mixed_op().buffers()] == [(2 * 8 * 6,)]
    assert len(list(mixed_op("nasbench201", stride=2).parameters())) == 3
    without_norms = MixedOp([OpSpec("skip_connect", 6, 6, 8, 8, 1)], normalise_pools=False)
    assert not list(without_norms.parameters()) and not list(without_norms.buffers())


def test_norms_of_other_widths_and_operators_without_kernels() -> None:
    spec = OpSpec("mbconv_3x3_e3_relu", 6, 6, 8, 8, 1)
    torch.manual_seed(0)
    found = MixedOp([spec], normalise_pools=False).state_dict()
    torch.manual_seed(0)
    expected = build_candidate(spec, normalise_pools=False).state_dict()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[f"candidates.mbconv_3x3_e3_relu.{name}"], tensor), name


def test_a_state_dict_is_loaded_into_another_operator() -> None:
    mine, other = mixed_op(seed=1), mixed_op(seed=2)
    mine.statistics.normal_()
    before = list(other.parameters())
    other.load_state_dict(mine.state_dict())
    assert all(a is b for a, b in zip(before, other.parameters(), strict=True))
    for (name, a), b in zip(mine.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert {n: v.requires_grad for n, v in mine.state_dict(keep_vars=True).items()} == {
        name: name.endswith("weight") for name in mine.state_dict()
    }


def test_what_does_not_fit_is_refused_by_name() -> None:
    state = mixed_op().state_dict()
    name = "candidates.sep_conv_3x3.pointwise1.weight"
    missing = {key: value for key, value in state.items() if key != name}
    with pytest.raises(RuntimeError, match=rf'Missing key.*"{name}"'):
        mixed_op().load_state_dict(missing)
    with pytest.raises(RuntimeError, match='Unexpected key.*"more"'):
        mixed_op().load_state_dict(state | {"more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=rf"{name}: expected \(6, 6, 1, 1\), got \(3,\)"):
        mixed_op().load_state_dict(state | {name: torch.zeros(3)})
    with torch.device("meta"):
        without_memory = mixed_op()
    with pytest.raises(RuntimeError, match=rf"{name} has no memory"):
        without_memory.load_state_dict(state, assign=True)
    assert mixed_op(seed=1).load_state_dict(missing, strict=False).missing_keys == [name]


def test_modules_of_an_operator_compute_what_it_holds() -> None:
    changed = mixed_op(seed=3)
    with torch.no_grad():
        changed.dil_conv_5x5.mul_(torch.rand_like(changed.dil_conv_5x5))
    module = modules_of(changed)["dil_conv_5x5"]
    weights = [p.detach().flatten() for p in module.parameters()]
    assert torch.equal(torch.cat(weights), changed.dil_conv_5x5.detach())
