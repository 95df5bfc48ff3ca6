"""Runs whose model normalises raw inputs itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.runs import settings, table_file

from hwnas import load_config, load_dataset, run
from hwnas.budget.cost import CostModel
from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.run import Run
from hwnas.pipeline.variants import export_variants
from hwnas.reporting.usage import ModelFacts, program

PREPROCESS = "export.preprocess=true"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preprocessing")
    # One of the 100 test images is a hundredth.
    config = load_config(None, settings("mbconv", PREPROCESS, "check.max_accuracy_drop=0.1"))
    run(config, folder / "run", table=table_file("mbconv", folder), show_progress=False)
    return folder / "run"


def document(path: Path) -> dict:
    found: dict = json.loads(path.read_text("utf-8"))
    return found


@pytest.mark.slow
def test_the_check_judges_the_whole(finished: Path) -> None:
    check = document(finished / "check.json")
    (given,) = check["model"]["inputs"]
    assert given["dtype"] == "uint8"
    assert "reads raw inputs (uint8) and normalises them itself" in check["notes"][0]
    undecided = [g["name"] for g in check["gates"] if g["status"] in ("fail", "inconclusive")]
    assert not undecided
    page = (finished / "report.html").read_text("utf-8")
    assert "raw uint8, normalised by the model" in page
    properties = {p.key: p.value for p in onnx.load(finished / "model.onnx").metadata_props}
    assert properties["hwnas.preprocess"] == "true"
    assert properties["hwnas.input_dtype"] == '"uint8"'


@pytest.mark.slow
def test_the_model_scores_raw_images_as_its_network_scores_normalised_ones(
    finished: Path,
) -> None:
    data = load_dataset(train_limit=400, test_limit=100, seed=0)
    session = onnxruntime.InferenceSession(finished / "model.onnx")
    own = Run.open(finished).problem.dataset
    assert own.input_shape == data.input_shape
    (logits,) = session.run(None, {"images": own.test.inputs})
    accuracy = float((logits.argmax(axis=1) == own.test.targets).mean())
    assert accuracy == document(finished / "metrics.json")["accuracy"]


@pytest.mark.slow
def test_predictions_include_what_normalising_adds(finished: Path) -> None:
    opened = Run.open(finished)
    added_ms = document(finished / "preprocessing.json")["added_ms"]
    assert added_ms >= 0
    table = LatencyTable.load(opened.folder.latency_table)
    without_ms = CostModel(opened.problem.space, table).latency_ms(opened.architecture())
    stated = document(finished / "architecture.json")["predicted_ms"]
    assert stated == pytest.approx(without_ms + added_ms)


@pytest.mark.slow
def test_the_report_s_program_feeds_raw_images(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = ModelFacts.read(finished / "model.onnx")
    assert facts is not None
    source = "\n".join(program(facts))
    assert "np.uint8)  # your image" in source
    assert "astype" not in source
    monkeypatch.chdir(finished)
    exec(source, {})
    assert capsys.readouterr().out.strip() in load_dataset().classes


@pytest.mark.slow
def test_variants_read_raw_images_too(finished: Path) -> None:
    made = export_variants(Run.open(finished), ("fp32", "fp16", "int8"))["variants"]
    for name in ("fp16", "int8"):
        assert made[name]["error"] is None
        gates = {gate["name"]: gate["status"] for gate in made[name]["gates"]}
        assert gates["accuracy_drop"] == "pass"
        session = onnxruntime.InferenceSession(finished / "variants" / f"model.{name}.onnx")
        assert session.get_inputs()[0].type == "tensor(uint8)"
        assert session.run(None, {"images": np.zeros((2, 1, 28, 28), np.uint8)})[0].shape == (2, 10)


@pytest.mark.parametrize(
    "more, words",
    [
        (
            ["latency.device_measurements='m.csv'"],
            ["export.preprocess", "device_measurements"],
        ),
        (["data.name='generated-text'", "space.name='sequence'"], ["tokens are not normalised"]),
    ],
)
def test_what_cannot_be_normalised_is_refused_first(
    more: list[str], words: list[str], tmp_path: Path
) -> None:
    space = "sequence" if "generated-text" in more[0] else "mbconv"
    config = load_config(None, settings(space, PREPROCESS, *more))
    with pytest.raises(InputError) as caught:
        run(config, tmp_path / "run", show_progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()
