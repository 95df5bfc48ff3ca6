"""The commands and the Python of the README and of the pages run, on tiny settings.

Most pages run on tables that are made up. The tutorial and the pages on checks and on devices
measure, and are slow.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
from helpers.command_line import commands_of, matching_table, tiny_arguments, write_photos
from helpers.runs import SETTINGS, SPACE
from helpers.small_models import model_of, saved
from onnx import ModelProto, helper, numpy_helper

import hwnas
from hwnas.config import load_config
from hwnas.latency_tables.table import LatencyTable

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WITH_OWN_TESTS = {"tutorial", "check_any_model", "profile_a_device", "add_a_space"}
"""Pages whose commands have tests of their own, below and in `test_add_a_space`."""
JOURNEYS = [
    ["README"],
    [
        *("README", "commands", "use_the_model", "number_formats", "microcontrollers"),
        "generate_architectures",
    ],
    ["tasks_and_data"],
    ["spaces"],
    ["strategies"],
    ["devices_and_budgets"],
    ["distributed"],
]
"""Pages whose commands run one after the other in one folder."""
SLOW_PAGES = ("spaces", "strategies", "tasks_and_data", "generate_architectures")
"""Last pages of those whose commands run each space, strategy and task, or each command, as other
tests do."""
SLOW = [
    "hwnas run mbconv_segmentation",
    "hwnas run sequence_text",
    "hwnas run vit_slice",
    "hwnas run elastic_slice",
    "hwnas run macro_slice",
    "hwnas run --set search.finalists=4 --set search.max_measured=6",
]
"""Commands of the pages' that are further runs of what other tests run."""
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
    "check.min_accuracy=0.001",
]


def page_of(name: str) -> Path:
    return ROOT / "README.md" if name == "README" else DOCS / f"{name}.md"


def python_blocks_of(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page_of(name).read_text(), re.DOTALL)


def python_of(name: str) -> str:
    (code,) = python_blocks_of(name)
    return code


def test_every_page_with_commands_is_tested() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    # Commands that are to be run stand in blocks of `sh`: others are not found, and not tested.
    languages = {
        language
        for page in pages
        for language in re.findall(r"^```(.*)\n(?:.*\n)*?```$", page.read_text(), re.MULTILINE)
    }
    assert languages <= {"sh", "python", "text", "toml", "{toctree}", "c", "cpp", "javascript"}
    with_commands = {page.stem for page in pages if commands_of(page)}
    assert with_commands == WITH_OWN_TESTS | {name for names in JOURNEYS for name in names}


@pytest.mark.long
@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(pages, marks=pytest.mark.slow if pages[-1] in SLOW_PAGES else ())
        for pages in JOURNEYS
    ],
    ids=lambda pages: pages[-1],
)
def test_the_commands_of_a_page_run(cli, tmp_path, monkeypatch, pages) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    lines = dict.fromkeys(line for name in pages for line in commands_of(page_of(name)))
    assert lines
    for line in lines:
        if line in SLOW:
            continue
        code, _, err = cli(*tiny_arguments(line, tmp_path))
        assert code == 0, f"{line}: {err}"
    if "use_the_model" in pages:
        shutil.copy("runs/mine/model.onnx", "model.onnx")
        with_hwnas, without = python_blocks_of("use_the_model")
        for script, pattern, count in (
            (with_hwnas, r"^.+\(.*Conv2d\(", 1),
            (without, r"^.+: \d+%$", 4),
        ):
            line = [sys.executable, "-c", script]
            done = subprocess.run(line, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert len(re.findall(pattern, done.stdout, re.MULTILINE)) >= count


def test_slow_commands_stand_on_pages() -> None:
    found = {line for names in JOURNEYS for name in names for line in commands_of(page_of(name))}
    assert set(SLOW) <= found


@pytest.mark.slow
@pytest.mark.parametrize("line", SLOW)
def test_a_slow_command_of_a_page_runs(cli, tmp_path, monkeypatch, line) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*tiny_arguments(line, tmp_path))
    assert code == 0, f"{line}: {err}"


@pytest.mark.slow
def test_the_launcher_s_command_searches_with_two_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"^torchrun (.*)$", page_of("distributed").read_text(), re.MULTILINE)
    launcher, _, command = line.partition("-m hwnas ")
    arguments = tiny_arguments(f"hwnas {command}", tmp_path)
    start = [sys.executable, "-m", "torch.distributed.run", *launcher.split(), "-m", "hwnas"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs" / "two" / "check.json").read_text())["verdict"] == "pass"


@pytest.mark.long
def test_the_readme_s_python_searches_and_predicts(tmp_path, monkeypatch, capsys) -> None:
    """As it stands, but for the settings that are made tiny and a table that is made up."""
    monkeypatch.chdir(tmp_path)
    settings = [*SPACE["nasbench201"], *SETTINGS]
    table = matching_table([part for s in settings for part in ("--set", s)], tmp_path)
    load, run = hwnas.load_config, hwnas.run

    def tiny_config(name: str, overrides: list[str]) -> hwnas.Config:
        assert load(name, overrides).budget.fraction == 0.3
        return load(name, [*overrides, *settings])

    monkeypatch.setattr(hwnas, "load_config", tiny_config, raising=False)
    monkeypatch.setattr(hwnas, "run", lambda c, out: run(c, out, table=table), raising=False)
    exec(compile(python_of("README"), "README.md", "exec"), {"__name__": "__main__"})
    shown, *lines = capsys.readouterr().out.splitlines()
    assert "verdict pass" in shown
    predicted = " ".join(lines)
    assert predicted.count("'") == 10, "five names of classes"


def test_the_kernels_page_s_python_runs(capsys) -> None:
    exec(compile(python_of("kernels"), "kernels.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "True\n"


def test_the_page_of_settings_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_settings.py"))["page"]()
    assert (DOCS / "settings.md").read_text() == made, "run python docs/make_settings.py"


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


def test_the_python_of_the_check_page_checks_a_module(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of("check_any_model"), "check_any_model.md", "exec"), {})
    verdict, latency_ms, unit = capsys.readouterr().out.split()
    assert (verdict, unit) == ("pass", "ms")
    assert 0 < float(latency_ms) < 5
    assert {path.name for path in (tmp_path / "checks" / "mine").iterdir()} == {
        "model.onnx",
        "check.json",
    }


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
