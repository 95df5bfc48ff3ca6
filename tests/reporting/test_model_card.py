"""The model card: metadata that YAML reads, headings of the hub's template, hostile names."""

from __future__ import annotations

from pathlib import Path

import yaml
from helpers.run_folders import CLASSES, HOSTILE, WrittenRun, change, write_model, written_run

from hwnas.reporting.model_card import render_model_card

HEADINGS = [
    "## Model Details",
    "### Model Description",
    "## Uses",
    "### Direct Use",
    "### Out-of-Scope Use",
    "## Bias, Risks, and Limitations",
    "## How to Get Started with the Model",
    "## Training Details",
    "### Training Data",
    "### Training Procedure",
    "#### Training Hyperparameters",
    "## Evaluation",
    "### Testing Data, Factors & Metrics",
    "### Results",
    "## Technical Specifications",
    "### Model Architecture and Objective",
    "### Compute Infrastructure",
]


def metadata_of(card: str) -> dict:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


def test_the_metadata_name_task_and_results(run: WrittenRun) -> None:
    card = render_model_card(run.folder)
    assert card is not None
    found = metadata_of(card)
    assert found["library_name"] == "onnx"
    assert found["pipeline_tag"] == "image-classification"
    (entry,) = found["model-index"]
    (result,) = entry["results"]
    assert result["task"]["type"] == "image-classification"
    assert {"type", "name"} <= set(result["dataset"])
    accuracy, latency = result["metrics"]
    assert (accuracy["type"], accuracy["value"]) == ("accuracy", 0.873)
    assert (latency["type"], latency["value"]) == ("latency_ms", 0.4213)


def test_it_has_the_headings_and_figures_of_the_run(run: WrittenRun) -> None:
    card = render_model_card(run.folder)
    assert card is not None
    lines = card.splitlines()
    assert [line for line in lines if line in HEADINGS] == HEADINGS
    words = card.replace("\u00a0", " ")
    assert "0.4213 ms (95 % confidence interval 0.4129 to 0.4297)" in words
    assert "| Latency budget | 0.5 ms |" in words
    assert "onnxruntime.InferenceSession('model.onnx')" in words
    assert f"{len(CLASSES)}: {', '.join(CLASSES)}" in words
    assert "| torch | 2.13.0 |" in words or "| onnxruntime | 1.27.0 |" in words


def test_names_from_elsewhere_are_no_markup(run: WrittenRun) -> None:
    write_model(run.folder.model, (HOSTILE, 'a"b|c', "trouser\n## Heading"))
    change(run.folder.check, lambda check: check.update(warnings=[HOSTILE]))
    card = render_model_card(run.folder)
    assert card is not None
    body = card.split("```python")[0]
    assert "<script>" not in body and "<img" not in body
    assert "\n## Heading" not in card
    assert metadata_of(card)["library_name"] == "onnx"


def test_there_is_none_before_the_model(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", stages=("history", "architecture"))
    assert render_model_card(run.folder) is None
