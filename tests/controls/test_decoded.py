"""The controls are within the budget, and exact."""

from __future__ import annotations

import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms, params_and_macs_ranges
from hwnas.budget.limit import Limit
from hwnas.controls.decoded import most_macs, most_parameters, random_architectures
from hwnas.errors import InputError
from hwnas.spaces import SPACES


@pytest.mark.parametrize("name", sorted(SPACES))
def test_controls_of_every_space(name: str) -> None:
    space = tiny_space(name, **({"nodes": 2} if name == "darts" else {}))
    cost = CostModel(space, table_of(space))
    (_, most_params), (_, most) = params_and_macs_ranges(space)
    free = Decoder([Limit(cost)])
    assert space.params_and_macs(most_parameters(space, free))[0] == most_params
    assert space.params_and_macs(most_macs(space, free))[1] == most
    fastest_ms, slowest_ms = latency_range_ms(cost)
    decoder = Decoder([Limit(cost, fastest_ms + 0.4 * (slowest_ms - fastest_ms))])
    random = random_architectures(space, decoder, 10, seed=1)
    by_params, by_macs = most_parameters(space, decoder), most_macs(space, decoder)
    assert all(decoder.is_feasible(a) for a in [by_params, by_macs, *random])
    assert random == random_architectures(space, decoder, 10, seed=1)
    # Random cells may have more parameters where weights have no influence on the output.
    if name != "nasbench201":
        sizes = [space.params_and_macs(a) for a in random]
        assert space.params_and_macs(by_params)[0] >= max(params for params, _ in sizes)
        assert space.params_and_macs(by_macs)[1] >= max(macs for _, macs in sizes)


def test_no_control_where_nothing_keeps_the_budget() -> None:
    space = tiny_space("nasbench201")
    cost = CostModel(space, table_of(space))
    decoder = Decoder([Limit(cost, 0.5 * latency_range_ms(cost)[0])])
    for control in (most_parameters, most_macs):
        with pytest.raises(InputError, match="no architecture keeps the budget"):
            control(space, decoder)
