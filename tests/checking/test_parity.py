"""Figures of parity for errors of known size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.checking.gates import parity_gates, parity_limits
from hwnas.checking.parity import compare
from hwnas.config import CheckConfig
from hwnas.errors import InputError

RNG = np.random.default_rng(0)
PAIRS = [
    tuple({"x": RNG.standard_normal((size, 5)).astype(np.float32)} for _ in range(2))
    for size in (1, 7)
]


def compared(change, reference=lambda x: x):
    return compare(
        lambda feeds: {"y": reference(feeds["x"])},
        lambda feeds: {"y": change(reference(feeds["x"]))},
        PAIRS,
        "m.onnx",
    )


def statuses(parity, **options) -> list[str]:
    gates = parity_gates(parity, parity_limits("float32", CheckConfig()), **options)
    return [gate.status for gate in gates]


@given(st.floats(-6, -1))
def test_the_sqnr_of_a_relative_error_is_its_size_in_decibels(exponent) -> None:
    parity = compared(lambda y: y.astype(np.float64) * (1 + 10**exponent))
    assert parity.sqnr_db == pytest.approx(-20 * exponent, abs=0.01)
    assert parity.top1_agreement == 1.0
    assert parity.batches == 4
    assert parity.within_tolerance or exponent > -3


def test_equal_outputs_have_no_error() -> None:
    parity = compared(lambda y: y)
    assert (parity.max_abs_error, parity.sqnr_db, parity.constant) == (0.0, None, False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_in_one_model_fail(value) -> None:
    parity = compared(lambda y: y * value)
    json.dumps(parity.to_json(), allow_nan=False)
    assert statuses(parity) == ["fail"] * 3


def test_values_that_are_not_finite_in_both_models_are_equal() -> None:
    parity = compared(lambda y: y, reference=lambda x: np.where(x > 1, np.nan, x))
    assert parity.within_tolerance
    assert parity.max_abs_error == 0.0


def test_constant_outputs_are_skipped_if_equal_and_fail_if_not() -> None:
    def constant(x):
        return np.full_like(x, 0.25)

    agreeing, other = compared(lambda y: y, constant), compared(lambda y: y + 1, constant)
    assert agreeing.constant
    assert other.constant
    assert statuses(agreeing) == ["skipped"] * 3
    assert statuses(other)[:2] == ["fail"] * 2
    whole = compared(lambda y: y + 1, lambda x: np.zeros(len(x), np.int64))
    assert whole.constant
    assert statuses(whole)[2] == "fail"


def test_a_large_constant_channel_does_not_hide_errors_of_others() -> None:
    def beside(x):
        return np.concatenate([np.full((len(x), 1), 1e6), x], axis=1)

    parity = compared(lambda y: beside(-9 * y[:, 1:]), beside)
    assert not parity.constant
    assert statuses(parity)[:2] == ["fail"] * 2
    assert statuses(compared(lambda y: y, beside)) == ["pass"] * 3


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_figures_do_not_depend_on_the_scale(scale) -> None:
    def scaled(x):
        return x.astype(np.float64) * scale

    assert compared(lambda y: -y, scaled).sqnr_db == pytest.approx(-6.02, abs=0.01)
    assert compared(lambda y: y * 1.1, scaled).sqnr_db == pytest.approx(20, abs=0.01)
    assert statuses(compared(lambda y: y * 1e5, scaled))[1] == "fail"
    largest = compared(lambda y: -y, lambda x: np.sign(x).astype(np.float64) * 1.7e308)
    json.dumps(largest.to_json(), allow_nan=False)
    assert statuses(largest)[:2] == ["fail"] * 2


def test_without_a_comparison_gates_are_skipped_or_inconclusive() -> None:
    assert statuses(None) == ["skipped"] * 3
    assert statuses(None, is_required=True) == ["inconclusive"] * 3


def test_the_sqnr_is_that_of_the_worst_output() -> None:
    parity = compare(
        lambda feeds: {"a": feeds["x"], "b": 100 * feeds["x"]},
        lambda feeds: {"a": 1.1 * feeds["x"], "b": 100 * feeds["x"]},
        PAIRS,
        "m.onnx",
    )
    assert parity.sqnr_db == pytest.approx(20, abs=0.1)
    assert not parity.within_tolerance


def test_the_agreement_of_integers_and_strings_is_the_share_of_equal_values() -> None:
    half = compared(
        lambda y: np.where(np.arange(y.size).reshape(y.shape) % 5 == 0, y + 1, y),
        reference=lambda x: (x > 0).astype(np.int64),
    )
    assert half.top1_agreement == pytest.approx(0.8)
    texts = compared(lambda y: y, reference=lambda x: np.where(x > 0, "yes", "no"))
    assert texts.top1_agreement == 1.0
    assert texts.max_abs_error == 0.0


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="m.onnx: the outputs differ in shape or type"):
        compared(lambda y: y[:, :2])


def test_lower_precision_has_wider_limits() -> None:
    parity = compared(lambda y: y * 1.02)
    sqnr = {
        precision: parity_gates(parity, parity_limits(precision, CheckConfig()))[1].status
        for precision in ("float32", "float16", "int8")
    }
    assert sqnr == {"float32": "fail", "float16": "fail", "int8": "pass"}


def test_outputs_of_the_same_names_are_compared_whatever_their_order() -> None:
    def outputs(order):
        return lambda feeds: {name: feeds["x"] * (1 + len(name)) for name in order}

    pairs = [tuple({"x": RNG.standard_normal((3, 4))} for _ in range(2))]
    found = compare(outputs(["a", "bb"]), outputs(["bb", "a"]), pairs, "m.onnx")
    assert found.within_tolerance
    # Outputs of other names are compared by their place.
    found = compare(outputs(["a", "bb"]), outputs(["cc", "d"]), pairs, "m.onnx")
    assert not found.within_tolerance
