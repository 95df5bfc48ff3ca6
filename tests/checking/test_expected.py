"""Stored outputs as the reference of samples, and a sample of the ONNX backend suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import odd_models
from helpers.model_checks import quickly_checked, statuses_of
from helpers.small_models import saved
from onnx.reference import ReferenceEvaluator

from hwnas.errors import InputError

BRIEF = {"measure_seconds": 0.1}
X = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    return saved(odd_models.embedding_and_logits(), tmp_path / "model.onnx")


def written(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def correct(model: Path) -> dict[str, np.ndarray]:
    evaluator = ReferenceEvaluator(str(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, {"x": X}), strict=True))


def checked(model: Path, data: Path, reference: Path):
    return quickly_checked(model, limits=BRIEF, data=data, reference=reference)


def test_outputs_that_are_stored_are_compared_with_those_of_the_samples(model, tmp_path) -> None:
    data = written(tmp_path / "data.npz", x=X)
    outputs = correct(model)
    good = checked(model, data, written(tmp_path / "good.npz", **outputs))
    assert good["verdict"] == "pass"
    assert good["parity"]["batches"] == 9
    assert good["not_asked"] == ["latency not limited"]
    outputs["logits"] = outputs["logits"].copy()
    outputs["logits"][7] += 1
    bad = statuses_of(checked(model, data, written(tmp_path / "bad.npz", **outputs)))
    assert bad["parity"] == bad["sqnr"] == "fail"


def test_the_items_of_a_sequence_are_stored_one_by_one(tmp_path) -> None:
    model = saved(odd_models.rows_as_sequence(), tmp_path / "model.onnx")
    data = written(tmp_path / "data.npz", x=X[:1])
    expected = X[:1] @ odd_models.random_weights(4, 4)
    document = checked(model, data, written(tmp_path / "good.npz", **{"y[0]": expected}))
    assert statuses_of(document)["parity"] == "pass"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda outputs: outputs.pop("logits"), "an output has no array, expected logits"),
        (lambda outputs: outputs.update(other=X), "no such output.*got other"),
        (lambda outputs: outputs.update(logits=X[:8]), "a part for each sample"),
        (lambda outputs: outputs.update(logits=X[:, :, None]), "differ in shape or type"),
    ],
)
def test_stored_outputs_that_do_not_fit_are_refused(model, tmp_path, change, words) -> None:
    data, outputs = written(tmp_path / "data.npz", x=X), correct(model)
    change(outputs)
    expected = written(tmp_path / "expected.npz", **outputs)
    with pytest.raises(InputError, match=words):
        checked(model, data, expected)


def test_stored_outputs_need_their_inputs(model, tmp_path) -> None:
    expected = written(tmp_path / "expected.npz", **correct(model))
    with pytest.raises(InputError, match="need their inputs.*--data"):
        quickly_checked(model, limits=BRIEF, reference=expected)


def test_a_sample_of_the_backend_suite_passes(monkeypatch) -> None:
    """The whole suite is a benchmark; a case that ONNX Runtime runs has to end in `pass`."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import onnx_node_tests

    chosen = onnx_node_tests.stored_cases(["simple", "pytorch-operator"])[::2]
    with onnx_node_tests.in_this_process():
        found = list(onnx_node_tests.rows(chosen))
    assert len(found) > 15
    allowed = {onnx_node_tests.PASS, onnx_node_tests.NOT_RUN, onnx_node_tests.NOT_ARRAYS}
    assert {row["end"] for row in found} <= allowed, found
    assert sum(row["end"] == onnx_node_tests.PASS for row in found) > len(found) / 2
