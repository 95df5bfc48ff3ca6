"""Models of other makers pass with the right verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import foreign_models

from hwnas.config import CheckConfig
from hwnas.deploy.check import check_file
from hwnas.inspection.process import inspect_model

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
NINE = sorted(path.name for path in LIGHT.glob("light_*.onnx"))
MAKERS = ("conv_block", "lstm", "transformer", "sklearn_pipeline", "sklearn_texts")
QUICK = ("lstm", "sklearn_pipeline", "light_shufflenet.onnx", "light_squeezenet.onnx")
"""Judged whenever tests run; the others take a minute together."""


def with_marks(names: Sequence[str]) -> list[Any]:
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in names]


def checked(path: Path, **settings) -> dict:
    limits = CheckConfig(measure_seconds=1, **settings.pop("limits", {}))
    return check_file(inspect_model(path), limits=limits, **settings)


def made(maker: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A maker's model, and the settings of its check."""
    path = getattr(foreign_models, maker)(folder / "model.onnx")
    return path, {"shapes": {"x": (1, 9, 4)}} if maker == "lstm" else {}


@pytest.mark.parametrize("maker", with_marks(MAKERS))
def test_a_model_of_another_maker_passes(maker, tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    path, settings = made(maker, tmp_path)
    if maker == "sklearn_pipeline":
        settings["data"] = foreign_models.sklearn_data(tmp_path / "data.npz")
    document = checked(path, budget_ms=1e3, limits={"min_accuracy": 0.8}, **settings)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert document["verdict"] == "pass"
    assert statuses["parity: unoptimised"] == statuses["dynamic_batch"] == "pass"
    assert document["batches"]["run"] == [1, 7, 64]
    assert [row["batch"] for row in document["throughput"]] == [1, 8, 32]
    assert (document["accuracy"] is not None) == (maker == "sklearn_pipeline")
    assert document["model"]["external_files"] == (
        ["model.onnx.data"] if maker == "transformer" else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
def test_a_model_of_another_maker_breaks_its_budget(maker, tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    path, settings = made(maker, tmp_path)
    assert checked(path, budget_ms=1e-6, **settings)["verdict"] == "fail"


def test_there_are_nine() -> None:
    assert len(NINE) == 9


@pytest.mark.parametrize("name", with_marks(NINE))
def test_the_models_in_the_wheel_load_place_and_time(name) -> None:
    document = checked(LIGHT / name)
    assert document["verdict"] == "pass"
    assert document["measured"]["value_ms"] > 0
    assert document["percentiles"]["samples"] >= 1
    placed = document["runtimes"]["onnxruntime-cpu"]["placement"]["CPUExecutionProvider"]
    # Equal nodes are merged while the model is loaded.
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
