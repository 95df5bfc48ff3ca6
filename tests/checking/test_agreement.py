"""Ties are no disagreement, and maps of classes may differ in a small share of their values."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.checking.agreement import Agreement, agreement_of
from hwnas.checking.gates import ParityLimits, parity_gates
from hwnas.checking.parity import Parity
from hwnas.reporting.formatting import gate_value, number

SCORES = np.random.default_rng(0).standard_normal((200, 10)).astype(np.float32)


def agreement_gate(*agreements: Agreement, least: float = 1.0):
    parity = Parity(0.0, True, None, agreements, 4, 100)
    return parity_gates(parity, ParityLimits(80.0, least, elementwise=True))[2]


def test_scores_that_are_tied_give_the_same_class() -> None:
    tied = np.concatenate([SCORES, SCORES * np.float32(1 + 1e-6)], axis=1)
    swapped = np.concatenate([SCORES * np.float32(1 + 1e-6), SCORES], axis=1)
    assert np.mean(tied.argmax(1) == swapped.argmax(1)) < 0.5
    found = agreement_of([(tied, swapped)], 80.0)
    assert found == Agreement(1.0, is_map=False)


def test_scores_that_differ_by_more_than_the_tolerance_do_not_agree() -> None:
    found = agreement_of([(SCORES, -SCORES)], 80.0)
    assert found is not None
    assert found.share < 0.1


@pytest.mark.parametrize("least_db, agrees", [(15.0, True), (40.0, False)])
def test_a_coarser_format_has_wider_ties(least_db, agrees) -> None:
    noise = np.random.default_rng(1).standard_normal(SCORES.shape) * 10 ** (-15 / 20)
    found = agreement_of([(SCORES, SCORES + noise.astype(np.float32))], least_db)
    assert found is not None
    assert (found.share >= 0.97) == agrees


def test_a_model_whose_scores_are_not_finite_agrees_with_nothing() -> None:
    found = agreement_of([(SCORES, np.full_like(SCORES, np.nan))], 15.0)
    assert found is not None
    assert found.share < 0.2


def test_outputs_without_values_or_classes_have_no_agreement() -> None:
    assert agreement_of([(np.zeros((0, 3), np.int64),) * 2], 80.0) is None
    assert agreement_of([(SCORES[:, :1],) * 2], 80.0) is None
    assert agreement_of([], 80.0) is None


def test_values_without_a_counterpart_do_not_agree() -> None:
    same = np.arange(6)
    assert agreement_of([(same, same)], 80.0, unmatched=2) == Agreement(0.75, is_map=False)
    assert agreement_of([], 80.0, unmatched=2) == Agreement(0.0, is_map=False)


@pytest.mark.parametrize("wrong, status", [(1, "pass"), (30, "fail")])
def test_a_map_of_classes_may_differ_in_a_thousandth(wrong, status) -> None:
    classes = np.random.default_rng(0).integers(0, 21, (4, 50, 50))
    other = classes.copy()
    other[0].flat[:wrong] += 1
    found = agreement_of([(classes, other)], 80.0)
    assert found is not None
    assert found.is_map
    assert agreement_gate(found).status == status


def test_the_gate_shows_the_output_that_misses_its_limit() -> None:
    gate = agreement_gate(Agreement(0.9995, is_map=True), Agreement(0.9999, is_map=False))
    assert (gate.status, gate.value, gate.limit) == ("fail", 0.9999, 1.0)


@pytest.mark.parametrize(
    "value, limit, expected",
    [
        (0.9999996, 1.0, "0.9999996"),
        (1.0, 1.0, "1"),
        (0.5, None, "0.5"),
        (None, 1.0, "-"),
        (79.99999, 80.0, "79.99999"),
    ],
)
def test_a_value_is_never_rounded_to_its_limit(value, limit, expected) -> None:
    text = gate_value({"value": value, "limit": limit})
    assert text == expected
    assert value in (limit, None) or text != number(limit)
