"""Models with sequences, empty outputs and sizes that are no batch get the right verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import odd_models
from helpers.model_checks import observed, statuses_of
from helpers.small_models import saved
from onnx import TensorProto

from hwnas.checking.check import check_file
from hwnas.checking.inputs.open_sizes import StatedSizes, UnknownSizesError
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model

GOOD = {"pass", "skipped", "reported"}


def gates_of(model, tmp_path, reference=None, data=None, **stated):
    """The status of each gate of a model, by name."""
    path = saved(model, tmp_path / "model.onnx")
    other = None if reference is None else saved(reference, tmp_path / "reference.onnx")
    return observed(path, other, data, stated=StatedSizes(**stated))[1]


def samples(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_every_item_of_a_sequence_is_compared(tmp_path) -> None:
    right = odd_models.rows_as_sequence()
    wrong = gates_of(odd_models.rows_as_sequence(100.0), tmp_path, right)
    assert wrong["parity"] == wrong["sqnr"] == "fail"
    assert set(gates_of(right, tmp_path, right).values()) <= GOOD


@pytest.mark.parametrize("as_sequence", [False, True])
def test_a_number_of_rows_that_depends_on_the_values_may_vary(as_sequence, tmp_path) -> None:
    model = odd_models.high_rows(1.2, as_sequence=as_sequence)
    assert set(gates_of(model, tmp_path).values()) <= GOOD
    other = gates_of(model, tmp_path, odd_models.high_rows(0.9, as_sequence=as_sequence))
    assert other["parity"] == other["sqnr"] == "fail"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [odd_models.detector(), odd_models.high_rows(50.0)])
def test_empty_outputs_are_not_judged(model, tmp_path) -> None:
    path = saved(model, tmp_path / "model.onnx")
    behaviour, gates = observed(path, path)
    assert {gates[name] for name in ("parity", "sqnr", "agreement")} == {"skipped"}
    assert gates["finite"] == "skipped"
    assert any("outputs were empty" in note for note in behaviour.notes)
    assert behaviour.parity is not None
    assert behaviour.parity.top1_agreement is None


def test_an_output_that_is_named_twice_is_judged_once(tmp_path) -> None:
    assert set(gates_of(odd_models.named_twice(), tmp_path).values()) <= GOOD


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4"])
def test_outputs_in_formats_that_numpy_lacks_are_read(kind, tmp_path) -> None:
    model = odd_models.cast_to(TensorProto.DataType.Value(kind))
    assert set(gates_of(model, tmp_path).values()) <= GOOD


def test_a_stated_first_size_that_no_output_has_is_no_batch(tmp_path) -> None:
    gates = gates_of(odd_models.nearest_points(), tmp_path, shapes={"points": (64, 3)})
    assert gates["dynamic_batch"] == "skipped"
    assert set(gates.values()) <= GOOD


def test_a_size_that_is_stated_by_its_name_is_no_batch(tmp_path) -> None:
    gates = gates_of(odd_models.nearest_points(), tmp_path, symbols={"count": 64})
    assert gates["dynamic_batch"] == "skipped"


def test_a_size_of_zero_is_allowed(tmp_path) -> None:
    shapes = {"x": (1, 1, 4), "past": (1, 0, 4)}
    gates = gates_of(odd_models.with_cache(), tmp_path, shapes=shapes)
    assert gates["dynamic_batch"] == "pass"
    assert set(gates.values()) <= GOOD
    with pytest.raises(InputError, match="the batch is empty"):
        gates_of(odd_models.with_cache(), tmp_path, shapes={"x": (0, 1, 4), "past": (0, 1, 4)})


def test_unknown_sizes_are_all_named(tmp_path) -> None:
    with pytest.raises(UnknownSizesError, match=r"--size s=1 --size p=1") as refusal:
        gates_of(odd_models.with_cache(), tmp_path)
    assert [size.symbol for size in refusal.value.sizes] == ["s", "p"]


def test_a_size_has_one_value_in_all_inputs(tmp_path) -> None:
    shapes = {"adjacency": (10, 10), "x": (9, 5)}
    with pytest.raises(InputError, match="nodes=10"):
        gates_of(odd_models.graph_network(), tmp_path, shapes=shapes)


CASES = {
    "a square matrix": (
        odd_models.graph_network(),
        {"adjacency": odd_models.random_weights(10, 10), "x": odd_models.random_weights(10, 5)},
    ),
    "edges between nodes": (
        odd_models.graph_with_edges(),
        {"x": odd_models.random_weights(10, 5), "edges": np.array([[9, 0, 3], [1, 2, 3]])},
    ),
    "a scalar": (odd_models.scaled(), {"x": np.float32(2.5)}),
    "several scalars": (odd_models.scaled(), {"x": np.float32([2.5, 3.5])}),
    "an array that all samples share": (
        odd_models.resized(),
        {"x": odd_models.random_weights(5, 3, 8, 8), "sizes": np.array([1, 3, 16, 16])},
    ),
    "a row for each inference": (
        odd_models.resized(),
        {
            "x": odd_models.random_weights(2, 3, 8, 8),
            "sizes": np.array([[1, 3, 16, 16], [1, 3, 8, 8]]),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_data_of_unusual_shapes_are_run(name, tmp_path) -> None:
    model, arrays = CASES[name]
    gates = gates_of(model, tmp_path, data=samples(tmp_path, **arrays))
    assert gates["dynamic_batch"] == "skipped"
    assert gates["parity: unoptimised"] == "pass"
    assert set(gates.values()) <= GOOD


@pytest.mark.parametrize(
    "model, options",
    [
        (odd_models.nearest_points(), {"sizes": {"count": 16}}),
        (odd_models.with_cache(), {"sizes": {"s": 16, "p": 16}}),
    ],
)
def test_sizes_are_proposed_with_which_the_model_runs(model, options, tmp_path) -> None:
    inspected = inspect_model(saved(model, tmp_path / "model.onnx"))
    request = CheckRequest(CheckConfig(measure_seconds=0.2))
    proposed = " ".join(f"--size {name}={size}" for name, size in options["sizes"].items())
    with pytest.raises(InputError, match=f"runs with {proposed}"):
        check_file(inspected, request)
    assert statuses_of(check_file(inspected, request, **options))["shapes"] == "pass"


class TestFinite:
    def test_outputs_that_overflow_fail_and_say_where(self, tmp_path) -> None:
        model = saved(odd_models.float16_sum(60000.0), tmp_path / "model.onnx")
        behaviour, gates = observed(model)
        assert gates["finite"] == "fail"
        (count,) = behaviour.not_finite
        assert (count.output, count.total) == ("y", 128)
        assert 0 < count.values == count.samples <= count.total_samples == 128

    def test_a_float16_model_is_compared_with_itself_in_float32(self, tmp_path) -> None:
        # The smallest positive number in float16 is 6e-8.
        gates = gates_of(odd_models.float16_sum(6e-8), tmp_path)
        assert gates["finite"] == "pass"
        assert gates["parity: unoptimised"] == "reported"
        assert gates["sqnr: float32"] == "fail"
        assert set(gates_of(odd_models.float16_sum(1.0), tmp_path).values()) <= GOOD

    def test_inputs_that_are_not_finite_do_not_count(self, tmp_path) -> None:
        x = np.array([[1.0, 2, 3, 4], [math.nan, 1, 1, 1], [math.inf, 1, 1, 1]], np.float32)
        model = odd_models.binary(as_probability=False)
        behaviour, gates = observed(
            saved(model, tmp_path / "model.onnx"), data=samples(tmp_path, x=x)
        )
        assert gates["finite"] == "pass"
        assert behaviour.not_finite[0].total_samples == 1

    def test_values_that_the_reference_has_too_do_not_count(self, tmp_path) -> None:
        nodes = [odd_models.node("Log", "x", "y")]
        x, y = odd_models.value("x", "n", 4), odd_models.value("y", "n", 4)
        model = odd_models.model_of(nodes, [x], [y])
        assert gates_of(model, tmp_path)["finite"] == "fail"
        assert gates_of(model, tmp_path, model)["finite"] == "pass"
