"""`hwnas export --variants` on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers.runs import settings, table_file
from safetensors.torch import load_file, save_file

import hwnas.cli.app
from hwnas.config import load_config
from hwnas.deploy.variants import VARIANTS
from hwnas.pipeline.calibration_samples import CALIBRATION_IMAGES, calibration_feeds
from hwnas.pipeline.run import Run
from hwnas.runs import interruption
from hwnas.training.train import final_weights

SCHEMA = {
    "required": [
        "schema",
        "fastest",
        "budget_ms",
        "batch",
        "runtime",
        "calibration_images",
        "variants",
        "environment",
    ],
    "properties": {
        "variants": {
            "additionalProperties": {
                "required": [
                    "verdict",
                    "model",
                    "size_bytes",
                    "precision",
                    "parity",
                    "accuracy",
                    "measured",
                    "ratio",
                    "gates",
                    "error",
                ],
                "properties": {
                    "verdict": {"enum": ["pass", "fail", "inconclusive"]},
                    "accuracy": {"required": ["torch", "onnx", "drop", "n"]},
                    "parity": {"required": ["max_abs_error", "sqnr_db", "top1_agreement"]},
                    "ratio": {"required": ["value", "ci_low", "ci_high"]},
                },
            }
        }
    },
}


@pytest.fixture
def export(capsys, monkeypatch):
    """Run `hwnas export` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(interruption, "install", lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            hwnas.cli.app.main(["export", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that stands before its export; its weights are random."""
    folder = tmp_path_factory.mktemp("variants")
    config = load_config(None, settings("nasbench201", "check.measure_seconds=1"))
    run = Run.start(config, folder / "run", resume=False)
    run.begin()
    run.folder.latency_table.write_bytes(table_file("nasbench201", folder).read_bytes())
    architecture = run.problem.space.sample(np.random.default_rng(0))
    params, macs = run.problem.space.params_and_macs(architecture)
    stated = {
        "space_options": run.problem.space.options.model_dump(),
        "genotype": run.problem.space.to_genotype(architecture),
        "params": params,
        "macs": macs,
        "predicted_ms": 1.0,
    }
    run.folder.write_json(run.folder.architecture, architecture.to_json() | stated)
    torch.manual_seed(0)
    save_file(final_weights(run.problem.space.network(architecture)), run.folder.weights)
    return run.folder.path


def test_an_unknown_variant_is_refused_in_one_line(export, trained) -> None:
    code, out, err = export(trained, "--variants", "fp32,int4")
    assert (code, out) == (2, "")
    assert "int4" in err
    assert len(err.splitlines()) == 1
    assert not (trained / "model.onnx").exists()


def test_calibration_is_drawn_from_the_training_images_by_the_seed(trained) -> None:
    run, again = Run.open(trained), Run.open(trained)
    found = np.concatenate([feeds["images"] for feeds in calibration_feeds(run)])
    same = np.concatenate([feeds["images"] for feeds in calibration_feeds(again)])
    np.testing.assert_array_equal(found, same)
    assert len(found) == CALIBRATION_IMAGES
    known = {
        image.tobytes()
        for image in run.problem.dataset.normalise(run.problem.dataset.train.inputs).numpy()
    }
    assert len({image.tobytes() for image in found} & known) > 0.9 * CALIBRATION_IMAGES
    config = run.config.model_copy(update={"seed": 1})
    other = np.concatenate([f["images"] for f in calibration_feeds(Run(config, run.folder))])
    assert not np.array_equal(found, other)


def refused_by_the_checker(model, calibration, folder):
    """A conversion that leaves an operator which does not exist."""
    model.graph.node[0].op_type = "NoSuchOperator"
    return model


def assert_check_of_a_variant(run: Path, capsys) -> None:
    """Its document and page stand beside it; those of the run are neither named nor written."""
    (run / "report.html").write_text("of the float32 model")
    model = run / "variants" / "model.int8.onnx"
    with pytest.raises(SystemExit):
        hwnas.cli.app.main(["check", str(model), "--run", str(run)])
    out = capsys.readouterr().out
    written = run / "variants" / "check.int8.json"
    page = written.with_suffix(".html")
    assert str(page) in out
    assert "report.html" not in out
    assert (run / "report.html").read_text() == "of the float32 model"
    assert "Variant int8 of " in page.read_text()
    assert not (run / "check.json").exists()
    document = json.loads(written.read_text())
    assert document["model"]["name"] == "model.int8.onnx"
    assert document["model"]["precision"] == "int8"


@pytest.mark.slow
def test_variants_are_judged_and_one_that_cannot_be_made_stops_no_other(
    export, trained, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(VARIANTS, "fp16", refused_by_the_checker)
    code, out, err = export(trained, "--variants", "fp16,int8", "--json")
    assert code == 3, err
    folder = trained / "variants"
    assert {path.name for path in folder.iterdir()} == {"model.int8.onnx", "variants.json"}
    document = json.loads(out)
    assert document == json.loads((folder / "variants.json").read_text())
    assert list(document["variants"]) == ["fp32", "fp16", "int8"]
    missing = document["variants"].pop("fp16")
    assert missing["verdict"] is None
    assert "NoSuchOperator" in missing["error"]
    (note,) = document["notes"]
    assert note.startswith("int8: convolutions run ")
    assert note in err
    jsonschema.validate(document, SCHEMA)
    exported, quantised = document["variants"].values()
    assert (exported["verdict"], exported["model"]) == ("pass", "model.onnx")
    assert set(exported["ratio"].values()) == {1.0}
    assert quantised["precision"] == "int8"
    assert quantised["model"] == "variants/model.int8.onnx"
    assert quantised["size_bytes"] == (folder / "model.int8.onnx").stat().st_size
    assert quantised["ratio"]["ci_low"] <= quantised["ratio"]["value"]
    limits = {gate["name"]: gate["limit"] for gate in quantised["gates"]}
    assert (limits["sqnr"], limits["agreement"], limits["budget"]) == (15.0, 0.97, 1e6)
    assert document["fastest"] in document["variants"]
    assert_check_of_a_variant(trained, capsys)
    # The variants of another model would be out of date.
    weights = load_file(trained / "weights.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, trained / "weights.safetensors")
    code, _, err = export(trained)
    assert code == 2
    assert "model.int8.onnx, check.int8.json, check.int8.html" in err
    assert len(list(folder.iterdir())) == 4
    code, _, err = export(trained, "--force")
    assert code == 0, err
    assert not list(folder.iterdir())
