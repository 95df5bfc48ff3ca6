"""Programs for microcontrollers of whole runs, and runs within their memory."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from helpers.runs import settings, table_file

import hwnas
from hwnas.budget.sizes import Size
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.check import check
from hwnas.pipeline.microcontroller import export_microcontroller
from hwnas.pipeline.run import Run


def test_a_trained_network_is_written_as_a_program(finished, tmp_path, cli) -> None:
    shutil.copytree(finished, tmp_path / "run")
    code, out, err = cli("export", str(tmp_path / "run"), "--microcontroller", "--json")
    assert code == 0, err
    document = json.loads(out)
    target = tmp_path / "run/microcontroller"
    assert document == json.loads((target / "sizes.json").read_text())
    assert document["ram_bytes"] > 0 and document["predicted"] is None
    assert abs(document["score"] - document["score_float32"]) < 0.1
    command = ["cc", "-std=c99", "-fsyntax-only", "-Wall", "-Werror", str(target / "model.c")]
    subprocess.run(command, check=True)
    assert (target / "model.tflite").exists() == (document["litert"] is None)


def budgets(*stated: str) -> list[str]:
    return settings("macro", "search.max_measured=4", *(f"budget.{one}" for one in stated))


@pytest.mark.slow
def test_a_run_keeps_the_sizes_and_says_so_in_its_verdict(tmp_path) -> None:
    table = table_file("macro", tmp_path)
    config = load_config(None, budgets("ram_kb=13.5", "flash_kb=4", "macs=400000"))
    config = config.model_copy(update={"controls": 1})
    document = hwnas.run(config, tmp_path / "run", table=table, show_progress=False)
    gates = {gate["name"]: gate for gate in document["gates"]}
    for name, most in (("ram_kb", 13.5), ("flash_kb", 4), ("macs", 400000)):
        assert gates[name]["status"] == "pass"
        assert 0.3 * most < gates[name]["value"] <= gates[name]["limit"] == most
    written = json.loads((tmp_path / "run/microcontroller/sizes.json").read_text())
    assert written["predicted"] == {name: written[name] for name in Size.__annotations__}
    assert "working memory on a microcontroller" in (tmp_path / "run/report.html").read_text()
    # The program of other weights is not judged.
    weights = tmp_path / "run/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(InputError, match="belongs to other weights"):
        check(Run.open(tmp_path / "run"))
    assert export_microcontroller(Run.open(tmp_path / "run"))["macs"] == written["macs"]


@pytest.mark.parametrize(
    "stated, words",
    [
        ("ram_kb=0.01", "budget.ram_kb.*at least"),
        ("flash_kb=1.5", "budget.flash_kb.*at least"),
        ("macs=10", "budget.macs.*at least"),
    ],
)
def test_sizes_out_of_reach_are_refused_before_anything_is_trained(tmp_path, stated, words) -> None:
    table = table_file("macro", tmp_path)
    with pytest.raises(InputError, match=words):
        hwnas.run(load_config(None, budgets(stated)), tmp_path / "run", table=table)
    assert not (tmp_path / "run").exists()


def test_spaces_that_no_microcontroller_runs_are_refused(tmp_path) -> None:
    config = load_config(None, settings("vit", "budget.ram_kb=20"))
    with pytest.raises(InputError, match="budget.*space of independent layers.*vit"):
        hwnas.run(config, tmp_path / "run", table=table_file("vit", tmp_path))
