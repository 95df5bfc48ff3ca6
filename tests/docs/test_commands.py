"""The commands of the pages run as they stand, on a folder of small images and tiny settings.

The README's commands, which `test_cli` runs, are the same verbs on tables that are made up.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
from helpers.command_line import commands_of, write_photos
from helpers.small_models import model_of, saved
from onnx import ModelProto, helper, numpy_helper

from hwnas.config import load_config
from hwnas.latency_tables.table import LatencyTable

DOCS = Path(__file__).parents[2] / "docs"
TINY = [
    "data.image_size=8",
    "space.channels=4",
    "budget.ms=1e6",
    "latency.measure_seconds=2",
    "search.steps=4",
    "search.batch_size=4",
    "search.candidates=2",
    "search.max_measured=1",
    "search.ranking_images=8",
    "search.recalibration_batches=1",
    "train.epochs=1",
    "train.batch_size=8",
    "check.measure_seconds=5",
]


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A working folder with images and the tutorial's configuration, made tiny."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    (tmp_path / "photos.toml").write_text(text)
    tiny = load_config("photos.toml", TINY)
    (tmp_path / "photos.toml").write_text(tiny.to_toml())
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_ends_with_checked_models_and_a_report(cli, photos) -> None:
    for line in commands_of(DOCS / "tutorial.md"):
        code, _, err = cli(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {err}"
    run = photos / "runs" / "photos"
    assert json.loads((run / "check.json").read_text())["verdict"] == "pass"
    variants = json.loads((run / "variants" / "variants.json").read_text())["variants"]
    assert set(variants) == {"fp32", "int8"}
    assert all(entry["error"] is None for entry in variants.values())
    assert (run / "report.html").exists()


def image_net() -> ModelProto:
    """A model of images of any size: input images (n, 3, h, w), output scores (n, 3)."""
    rng = np.random.default_rng(0)
    stored = {"kernel": rng.standard_normal((16, 3, 3, 3)), "head": rng.standard_normal((16, 3))}
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["features"], strides=[2, 2]),
        helper.make_node("GlobalMaxPool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in stored.items()]
    return model_of(nodes, {"images": ("n", 3, "h", "w")}, {"scores": ("n", 3)}, tensors)


@pytest.mark.slow
def test_a_model_of_any_maker_is_checked(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "golden"):
        saved(image_net(), tmp_path / f"{name}.onnx")
    session = onnxruntime.InferenceSession("golden.onnx")
    images = np.random.default_rng(1).standard_normal((60, 3, 32, 32), dtype=np.float32)
    labels = session.run(None, {"images": images})[0].argmax(axis=1)
    np.savez("samples.npz", images=images, labels=labels)
    found = commands_of(DOCS / "check_any_model.md")
    assert len(found) >= 6
    for line in found:
        arguments = shlex.split(line.replace("--serve-seconds 10", "--serve-seconds 1"))[1:]
        code, out, err = cli(*arguments, "--set", "check.measure_seconds=1")
        assert code == 0, f"{line}: {out} {err}"
    assert ElementTree.parse("check.xml").getroot().get("failures") == "0"
    assert Path("check.md").read_text().startswith("## model.onnx: pass\n")


def measure_elsewhere(folder: Path) -> None:
    """What happens on the device between two commands: networks and a bundle are measured."""
    design, bundle = folder / "design.csv", folder / "board"
    if design.exists() and not (folder / "measured.csv").exists():
        cells = design.read_text().split()[1:]
        lines = [f"{cell},{1 + 0.1 * index}" for index, cell in enumerate(cells)]
        for name in ("measured.csv", "others.csv"):
            (folder / name).write_text("\n".join(["arch,latency_ms", *lines]))
    if bundle.exists() and not (folder / "results.json").exists():
        line = [sys.executable, "measure.py", "--device", "board", "--seconds", "0.01"]
        subprocess.run([*line, "--out", str(folder / "results.json")], check=True, cwd=bundle)


@pytest.mark.slow
def test_a_device_is_profiled_audited_calibrated_and_searched_for(cli, photos) -> None:
    fewer = {"--bundle": ["-n", "2"], "-k": ["-k", "3", "--seconds", "0.5"]}
    for line in commands_of(DOCS / "profile_a_device.md"):
        # The budgets of the page are its machine's; here any network keeps them.
        arguments = ["1e6" if a in ("0.5", "2") else a for a in shlex.split(line)[1:]]
        arguments += [part for option in fewer if option in arguments for part in fewer[option]]
        code, _, err = cli(*arguments)
        assert code == 0, f"{line}: {err}"
        measure_elsewhere(photos)
    table = LatencyTable.load(photos / "imported.json")
    assert table.device.device == "board"
    assert table.calibration is not None
    for name in ("confident", "both"):
        assert (photos / "runs" / name / "architecture.json").exists()
