"""The chance level: a model that ignores its inputs is told, whatever its accuracy is."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.model_checks import quickly_checked, statuses_of
from helpers.small_models import labelled_data, model_of, residual_net, saved
from onnx import helper, numpy_helper
from scipy.stats import binomtest

from hwnas.checking.chance import Chance
from hwnas.tasks.proportions import wilson_interval

GATE = "accuracy_above_chance"


@pytest.fixture
def always_first(tmp_path):
    """A classifier of 3 classes that always names the first, whatever the input."""
    tensors = [
        numpy_helper.from_array(np.zeros((4, 3), np.float32), "zeros"),
        numpy_helper.from_array(np.float32([1, 0, 0]), "scores"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "zeros"], ["nothing"]),
        helper.make_node("Add", ["nothing", "scores"], ["y"]),
    ]
    return saved(model_of(nodes, {"x": ("n", 4)}, {"y": ("n", 3)}, tensors), tmp_path / "m.onnx")


def data_of(labels, folder):
    path = folder / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.standard_normal((len(labels), 4), np.float32), labels=labels)
    return path


@pytest.mark.parametrize("correct, samples", [(0, 1), (1, 3), (33, 100), (100, 100), (4999, 10000)])
def test_the_interval_is_that_of_wilson(correct, samples) -> None:
    expected = binomtest(correct, samples).proportion_ci(0.95, "wilson")
    assert wilson_interval(correct / samples, samples) == pytest.approx(expected, abs=1e-7)


def test_more_samples_tell_a_small_difference_from_chance() -> None:
    found = [Chance("accuracy", 0.36, 1 / 3, samples).is_above for samples in (100, 10_000)]
    assert found == [False, True]


def test_other_scores_have_to_be_above_the_level_itself() -> None:
    at, above = (Chance("explained", score, 0.0, 50) for score in (0.0, 0.01))
    assert above.is_above
    assert above.warning is None
    assert at.interval is None
    assert "explained 0 is not above 0" in at.warning


def test_always_the_same_class_is_inconclusive(always_first, tmp_path) -> None:
    document = quickly_checked(always_first, data=data_of(np.arange(60) % 3, tmp_path))
    assert document["accuracy"]["onnx"] == pytest.approx(1 / 3)
    assert document["verdict"] == statuses_of(document)[GATE] == "inconclusive"
    assert document["chance"]["level"] == pytest.approx(1 / 3)
    assert document["chance"]["is_above"] is False
    (warning,) = document["warnings"]
    assert "is not above 0.3333, the share of the largest class" in warning
    (gate,) = (gate for gate in document["gates"] if gate["name"] == GATE)
    assert gate["detail"] == warning


def test_a_least_accuracy_that_somebody_set_decides_instead(always_first, tmp_path) -> None:
    data = data_of(np.arange(60) % 3, tmp_path)
    document = quickly_checked(always_first, data=data, limits={"min_accuracy": 0.3})
    assert statuses_of(document)["accuracy"] == document["verdict"] == "pass"
    assert statuses_of(document)[GATE] == "reported"
    assert len(document["warnings"]) == 1


def test_a_model_that_uses_its_inputs_passes_without_a_warning(tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "m.onnx")
    document = quickly_checked(path, data=labelled_data(path, tmp_path / "data.npz"))
    statuses = statuses_of(document)
    assert (statuses["accuracy"], statuses[GATE]) == ("reported", "pass")
    assert document["verdict"] == "pass"
    assert document["warnings"] == []
    low, high = document["chance"]["ci_low"], document["chance"]["ci_high"]
    assert document["chance"]["level"] < low < high <= 1


def test_samples_of_one_class_prove_nothing(always_first, tmp_path) -> None:
    document = quickly_checked(always_first, data=data_of(np.zeros(20, int), tmp_path))
    assert document["accuracy"]["onnx"] == 1.0
    assert document["verdict"] == "inconclusive"
