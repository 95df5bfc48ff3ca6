"""How sure searches are, against hand-made trajectories and exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import tiny_space

from hwnas.explaining.certainty import agreements, certainties, shared_choices


def test_certainty_of_a_made_up_search() -> None:
    space = tiny_space("nasbench201")
    architecture = space.architecture([3] * 6)
    steps = [10.0, 20.0, 30.0, 40.0]
    shares = np.full((4, 6, 5), 0.2)
    shares[:, 0] = [0, 0, 0, 1, 0]  # decided from the start
    shares[:2, 1], shares[2:, 1] = [0.6, 0.4, 0, 0, 0], [0, 0.3, 0, 0.7, 0]
    shares[:, 2] = [0.5, 0.2, 0.1, 0.1, 0.1]  # another option is taken than the most probable
    found = certainties(space, architecture, steps, shares)
    names = [choice.name for choice in space.choices]
    first, second, third, uniform = (found[name] for name in names[:4])
    assert (first.probability, first.rank, first.entropy) == (1.0, 1, 0.0)
    assert first.decided_at == 0.0
    assert (second.probability, second.decided_at) == (0.7, 0.75)
    assert second.entropy == pytest.approx(-(0.3 * np.log(0.3) + 0.7 * np.log(0.7)) / np.log(5))
    assert third.rank == 3
    assert uniform.entropy == pytest.approx(1.0)
    assert certainties(space, architecture, [], np.zeros((0, 6, 5))) == {}


def test_agreement_by_chance_is_that_of_independent_uniform_options() -> None:
    space = tiny_space("nasbench201")
    runs = [space.architecture([3, 1, 0, 0, 0, 0]), space.architecture([3, 1, 1, 2, 1, 1])]
    runs.append(space.architecture([3, 2, 2, 2, 2, 2]))
    found = agreements(space, runs)
    all_agree, two_agree, none_agree = (found[c.name] for c in space.choices[:3])
    assert (all_agree.option, all_agree.count) == ("nor_conv_3x3", 3)
    # Three draws from five options: all equal 1/25, at least two equal 1 - 4/5 * 3/5.
    assert all_agree.by_chance == pytest.approx(1 / 25, abs=0.015)
    assert two_agree.by_chance == pytest.approx(13 / 25, abs=0.04)
    assert none_agree.by_chance == 1.0
    assert all_agree.is_stable and not two_agree.is_stable


def test_the_structure_of_a_space_is_no_agreement() -> None:
    # Most edges of a DARTS cell take `none`, whatever the seed.
    space = tiny_space("darts")
    rng = np.random.default_rng(0)
    found, by_chance = shared_choices(space, [space.sample(rng) for _ in range(40)])
    assert found == pytest.approx(by_chance, abs=0.03)
    assert by_chance > 2 / 8
