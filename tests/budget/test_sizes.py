"""Exact limits of memory and work in the decoder, against all networks of a small space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.budget.sizes import LayerSizes, Size, SizeLimits
from hwnas.deploy.microcontroller.sizes import layer_sizes, network_size
from hwnas.errors import InputError

SPACE = tiny_space(
    "macro",
    stages=[
        {"layers": [1, 2], "kernel": [1, 3], "width": [4, 8], "stride": 2},
        {"operator": ["conv", "separable"], "width": [3, 9], "channels": 6},
        {"operator": "dense", "width": [4, 8], "channels": 4, "activation": ["relu", "tanh"]},
    ],
)
NETWORKS = [
    SPACE.architecture(list(chosen))
    for chosen in itertools.product(*(range(len(choice.options)) for choice in SPACE.choices))
]
SIZES = layer_sizes(SPACE, "budget")
ALL = [SIZES.of(SPACE.chosen(network)) for network in NETWORKS]
SCORES = np.random.default_rng(4).normal(size=SPACE.mask.shape)
TOTALS = np.array([SCORES[range(4), SPACE.chosen(network)].sum() for network in NETWORKS])
COST = CostModel(SPACE, table_of(SPACE))


def quantile(name: str, share: float) -> float:
    """The size that this share of all networks keep."""
    return float(np.quantile([getattr(size, name) for size in ALL], share, method="lower"))


def test_what_networks_take_is_what_their_operators_take() -> None:
    for index in range(0, len(NETWORKS), 23):
        assert network_size(SPACE.network(NETWORKS[index]), (1, 9, 7)) == ALL[index]
    assert SIZES.least(SPACE.mask.numpy()) == Size(
        *(min(getattr(size, name) for size in ALL) for name in Size.__annotations__)
    )


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize(
    "names", [("ram_bytes",), ("flash_bytes",), ("macs",), tuple(Size.__annotations__)]
)
@pytest.mark.parametrize("with_latency", [False, True])
def test_decoding_is_exact(share, names, with_latency) -> None:
    most = {name: quantile(name, share) for name in names}
    latency_ms = COST.predict(NETWORKS)[0]
    budget_ms = float(np.median(latency_ms)) if with_latency else np.inf
    kept = [
        all(getattr(size, name) <= value for name, value in most.items()) and ms <= budget_ms
        for size, ms in zip(ALL, latency_ms, strict=True)
    ]
    decoder = Decoder([Limit(COST, budget_ms, sizes=SizeLimits(SIZES, **most))])
    assert [decoder.is_feasible(network) for network in NETWORKS] == kept
    if not any(kept):
        with pytest.raises(InputError, match="no architecture keeps"):
            decoder.best(SCORES)
        return
    best = np.sort(TOTALS[kept])[::-1][:3]
    found = [TOTALS[NETWORKS.index(network)] for network in decoder.best(SCORES, k=3)]
    assert found == pytest.approx(best)
    # No limit is one byte too large or too small for the solver.
    largest = next(decoder.largest(SPACE.coefficient_params_and_macs[:, 1].astype(float)))
    assert kept[NETWORKS.index(largest)]


@pytest.mark.parametrize("name", ["ram_bytes", "flash_bytes", "macs"])
def test_a_limit_below_the_smallest_network_is_named_with_what_is_possible(name) -> None:
    least = min(getattr(size, name) for size in ALL)
    decoder = Decoder([Limit(COST, sizes=SizeLimits(SIZES, **{name: least - 1}))])
    with pytest.raises(InputError) as caught:
        decoder.best(SCORES)
    stated = name.replace("_bytes", "_kb")
    possible = least if name == "macs" else least / 1024
    assert f"{stated} at least {possible:,.6g}" in str(caught.value)
    assert Decoder([Limit(COST, sizes=SizeLimits(SIZES, **{name: least}))]).best(SCORES)


def test_limits_of_billions_are_exact_to_one() -> None:
    """The solver's tolerances are relative to the numbers of its rows."""
    options = np.zeros(SPACE.mask.shape, dtype=np.int64)
    macs = options.copy()
    macs[0, 1], macs[1, 1] = 2_000_000_000, 2_000_001
    sizes = LayerSizes(Size(0, 0, 7), options, options, macs)
    scores = np.zeros(SPACE.mask.shape)
    scores[0, 1] = scores[1, 1] = 1.0
    for room, expected in ((2_002_000_008, 2.0), (2_002_000_007, 1.0)):
        limit = Limit(COST, sizes=SizeLimits(sizes, macs=room))
        (found,) = Decoder([limit]).best(scores)
        assert scores[range(4), SPACE.chosen(found)].sum() == expected


@pytest.mark.parametrize(
    "space, words",
    [("nasbench201", "space of independent layers"), ("sequence", "integer form")],
)
def test_spaces_without_exact_sizes_are_refused(space, words) -> None:
    with pytest.raises(InputError, match=words):
        layer_sizes(tiny_space(space), "budget")
