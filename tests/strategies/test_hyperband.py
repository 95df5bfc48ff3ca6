"""Brackets of Hyperband against the paper's algorithm, on a known objective."""

from __future__ import annotations

from helpers.tiny import decoder_of, tiny_space

from hwnas.architecture import Architecture
from hwnas.strategies import Outcome, build_strategy

SPACE = tiny_space("nasbench201")
DECODER = decoder_of(SPACE)


def objective(architecture: Architecture) -> float:
    """An objective that differs between all architectures."""
    return sum((i + 1) * 5.0**row for row, i in enumerate(SPACE.chosen(architecture))) / 1e4


def evaluate(strategy, steps: int) -> list[tuple[float, Architecture]]:
    seen = []
    for _ in range(steps):
        mixture = strategy.ask()
        architecture = SPACE.most_likely(mixture)
        seen.append((strategy.fidelity, architecture))
        value = objective(architecture)
        strategy.tell(mixture, Outcome(value, value, 0.5, lasting=True), 0.0)
    return seen


def fidelities(seen) -> list[tuple[float, int]]:
    """The fidelity of each rung and the number of evaluations at it, in order."""
    rungs: list[tuple[float, int]] = []
    for fidelity, _ in seen:
        if rungs and rungs[-1][0] == fidelity:
            rungs[-1] = fidelity, rungs[-1][1] + 1
        else:
            rungs.append((fidelity, 1))
    return rungs


def test_brackets_are_those_of_the_paper() -> None:
    """Algorithm 1 with R = 9 and eta = 3."""
    strategy = build_strategy("hyperband", SPACE, 0, {"ratio": 3, "halvings": 2}, DECODER)
    seen = evaluate(strategy, 9 + 3 + 1 + 5 + 1 + 3 + 9)
    ninth, third = 3.0**-2, 3.0**-1
    assert fidelities(seen) == [
        *[(ninth, 9), (third, 3), (1.0, 1)],
        *[(third, 5), (1.0, 1 + 3)],
        (ninth, 9),
    ]
    first = sorted({a for _, a in seen[:9]}, key=objective)
    assert [a for _, a in seen[9:12]] == first[:3]
    assert seen[12][1] == first[0]


def test_architectures_are_ranked_by_fidelity_then_objective() -> None:
    strategy = build_strategy("successive-halving", SPACE, 0, {}, DECODER)
    seen = evaluate(strategy, 2 * (9 + 3 + 1))
    whole = sorted({a for fidelity, a in seen if fidelity == 1.0}, key=objective)
    assert len(whole) == 2
    third = sorted({a for fidelity, a in seen if fidelity == 1 / 3} - set(whole), key=objective)
    assert len(third) == 4
    assert strategy.best(DECODER, 6) == whole + third


def test_a_bracket_resumes_within_a_rung() -> None:
    whole = build_strategy("hyperband", SPACE, 3, {}, DECODER)
    expected = evaluate(whole, 24)
    half = build_strategy("hyperband", SPACE, 3, {}, DECODER)
    evaluate(half, 11)
    rest = build_strategy("hyperband", SPACE, 3, {}, DECODER)
    rest.load_state_dict(half.state_dict())
    assert evaluate(rest, 13) == expected[11:]
    assert rest.best(DECODER, 5) == whole.best(DECODER, 5)
