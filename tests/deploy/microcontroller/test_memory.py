"""Orders of operators and places of values, against every order by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.integer_programs import random_network, spaces

from hwnas.deploy.microcontroller.lowering import lower
from hwnas.deploy.microcontroller.memory import Plan, aligned, best_order, lifetimes, peak_of, plan
from hwnas.deploy.microcontroller.program import Program, Step

SPACES = spaces()


def random_program(rng: np.random.Generator, operators: int) -> Program:
    """Sums and concatenations of earlier values of random sizes."""
    sizes = {0: int(rng.integers(1, 40))}
    steps = []
    for number in range(1, operators + 1):
        inputs = tuple(int(v) for v in rng.choice(number, min(number, 2), replace=False))
        sizes[number] = int(rng.integers(1, 40))
        shape = (sizes[number], 1, 1)
        steps.append(Step("concat", inputs, ((1, 1, 1),) * len(inputs), number, shape))
    return Program(tuple(steps), sizes, operators, (sizes[0], 1, 1))


def by_brute_force(program: Program) -> int:
    """The smallest peak over all orders in which every operator follows those it reads."""
    sizes = {value: aligned(size) for value, size in program.sizes.items()}
    peaks = []
    for order in itertools.permutations(range(len(program.steps))):
        written = {0}
        for position in order:
            step = program.steps[position]
            if not written.issuperset(step.inputs):
                break
            written.add(step.output)
        else:
            lives = lifetimes(program.reordered(order))
            peaks.append(peak_of(lives, sizes, len(order)))
    return min(peaks)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_order_is_that_of_a_search_of_all(seed) -> None:
    program = random_program(np.random.default_rng(seed), 6)
    found = plan(program)
    assert found.is_best
    assert found.peak_bytes == by_brute_force(program)
    check_places(found)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
@pytest.mark.parametrize("name", SPACES)
def test_arenas_of_networks_are_as_small_as_their_peaks(name, seed) -> None:
    network = random_network(SPACES[name], seed)
    found = plan(lower(network, SPACES[name].options.input_shape))
    assert found.is_best
    assert found.bytes == found.peak_bytes
    check_places(found)


def check_places(found: Plan) -> None:
    """Values that live at the same time do not overlap, and all are inside of the arena."""
    lives, sizes = lifetimes(found.program), found.program.sizes
    for a, b in itertools.combinations(lives, 2):
        together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
        ends = found.offsets[a] + sizes[a], found.offsets[b] + sizes[b]
        overlap = found.offsets[a] < ends[1] and found.offsets[b] < ends[0]
        assert not (together and overlap)
    assert max(found.offsets[v] + aligned(sizes[v]) for v in lives) == found.bytes


def test_a_chain_needs_its_largest_pair_of_neighbours() -> None:
    sizes = {0: 100, 1: 40, 2: 60, 3: 8}
    steps = tuple(
        Step("map", (number,), ((sizes[number], 1, 1),), number + 1, (sizes[number + 1], 1, 1))
        for number in range(3)
    )
    found = plan(Program(steps, sizes, 3, (100, 1, 1)))
    assert found.peak_bytes == found.bytes == 140


def test_graphs_with_too_many_orders_keep_the_one_they_have(monkeypatch) -> None:
    monkeypatch.setattr("hwnas.deploy.microcontroller.memory.MAX_STATES", 3)
    program = random_program(np.random.default_rng(0), 6)
    assert best_order(program, program.sizes) is None
    found = plan(program)
    assert not found.is_best and found.program == program
    check_places(found)
