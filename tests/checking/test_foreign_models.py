"""Models that other tools exported get the right verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import foreign_models
from helpers.model_checks import quickly_checked, statuses_of

from hwnas.inspection.process import inspect_model

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_MODELS = sorted(path.name for path in LIGHT.glob("light_*.onnx"))
EXPORTS = ("conv_block", "lstm", "transformer", "sklearn_pipeline", "sklearn_texts")
QUICK = ("lstm", "sklearn_pipeline", "light_shufflenet.onnx", "light_squeezenet.onnx")
"""Checked whenever tests run; the others take a minute together."""


def with_marks(names: Sequence[str]) -> list[Any]:
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in names]


def exported(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A model, and the options of its check."""
    path = getattr(foreign_models, name)(folder / "model.onnx")
    return path, {"shapes": {"x": (1, 9, 4)}} if name == "lstm" else {}


@pytest.mark.parametrize("name", with_marks(EXPORTS))
def test_a_model_of_another_tool_passes(name, tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    path, options = exported(name, tmp_path)
    if name == "sklearn_pipeline":
        options["data"] = foreign_models.sklearn_data(tmp_path / "data.npz")
    document = quickly_checked(
        path, budgets={"budget_ms": 1e3}, limits={"min_accuracy": 0.8}, **options
    )
    statuses = statuses_of(document)
    assert document["verdict"] == "pass"
    assert statuses["parity: unoptimised"] == statuses["dynamic_batch"] == "pass"
    assert document["batches"]["run"] == [1, 7, 64]
    assert [row["batch"] for row in document["throughput"]] == [1, 8, 32]
    assert (document["accuracy"] is not None) == (name == "sklearn_pipeline")
    assert document["model"]["external_files"] == (
        ["model.onnx.data"] if name == "transformer" else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTS)
def test_a_model_of_another_tool_exceeds_a_tiny_budget(name, tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    path, options = exported(name, tmp_path)
    document = quickly_checked(path, budgets={"budget_ms": 1e-6}, **options)
    assert statuses_of(document)["budget"] == document["verdict"] == "fail"


def test_the_onnx_package_still_has_nine_light_models() -> None:
    assert len(LIGHT_MODELS) == 9


@pytest.mark.parametrize("name", with_marks(LIGHT_MODELS))
def test_a_light_model_is_loaded_placed_and_timed(name) -> None:
    document = quickly_checked(LIGHT / name)
    assert document["verdict"] == "pass"
    assert document["measured"]["value_ms"] > 0
    assert document["percentiles"]["samples"] >= 1
    placed = document["runtimes"]["onnxruntime-cpu"]["placement"]["CPUExecutionProvider"]
    # Common subexpression elimination may merge equal nodes.
    assert 0 < placed["Conv"] <= document["model"]["operators"]["Conv"]
    assert document["parity_with"]["unoptimised"]["constant"]
    assert any("no parity" in note for note in document["notes"])


def test_a_light_model_is_described() -> None:
    model = inspect_model(LIGHT / "light_squeezenet.onnx")
    graph = onnx.load(LIGHT / "light_squeezenet.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    assert [value.name for value in model.inputs] == ["data_0"]
    assert model.nodes == len(graph.node)
    assert not {"data_0"} & stored
    assert model.operators["Conv"] == 26
    assert model.opset == 9
    assert model.params == sum(
        int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == 1
    )
