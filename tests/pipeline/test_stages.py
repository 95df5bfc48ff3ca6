"""Whole runs on tiny settings: files, verdict, interruption and resuming, reproducibility."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import onnx
import pytest
from helpers.runs import finish, settings, table_file

from hwnas.architecture import Architecture
from hwnas.config import load_config
from hwnas.pipeline.profile import profiled_space
from hwnas.spaces import SPACES
from hwnas.strategies import STRATEGIES

FILES = (
    "config.toml environment.json latency_table.json history.jsonl checkpoints architecture.json "
    "weights.safetensors metrics.json predictions.npz model.onnx check.json operator_shares.json "
    "training_samples.npz report.html model_card.md"
).split()


CHECK_SCHEMA = {
    "type": "object",
    "required": [
        "schema",
        "verdict",
        "warnings",
        "chance",
        "budget_ms",
        "predicted_ms",
        "measured",
        "parity",
        "accuracy",
        "model",
        "gates",
        "environment",
    ],
    "properties": {
        "schema": {"const": 1},
        "verdict": {"enum": ["pass", "fail", "inconclusive"]},
        "measured": {
            "required": [
                "median_ms",
                "p10_ms",
                "p90_ms",
                "statistic",
                "value_ms",
                "ci_low_ms",
                "ci_high_ms",
                "rounds",
                "status",
                "runtime",
            ]
        },
        "parity": {"required": ["max_abs_error", "sqnr_db", "top1_agreement", "batches"]},
        "accuracy": {"required": ["torch", "onnx", "n"]},
        "model": {"required": ["sha256", "size_bytes", "opset", "ir_version", "params", "macs"]},
        "gates": {
            "items": {
                "required": ["name", "status", "value", "limit", "bound"],
                "properties": {
                    "status": {"enum": ["pass", "fail", "inconclusive", "reported", "skipped"]},
                    "bound": {"enum": ["min", "max", None]},
                },
            }
        },
        "warnings": {"items": {"type": "string"}},
        "chance": {"required": ["level", "ci_low", "ci_high", "is_above"]},
    },
}


def command(space: str, table: Path, out: Path, *more: str, resume: bool = False) -> list[str]:
    line = [sys.executable, "-m", "hwnas", "run", "--table", str(table), "--out", str(out)]
    line += ["--json", *(["--resume"] if resume else [])]
    for setting in settings(space, *more):
        line += ["--set", setting]
    return line


ALL = [(space, strategy) for space in sorted(SPACES) for strategy in sorted(STRATEGIES)]


# The README's commands run the cell spaces.
QUICK = {("darts", "darts")}


@pytest.mark.parametrize(
    "space,strategy",
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in ALL],
)
def test_a_run_ends_with_a_checked_model(space: str, strategy: str, tmp_path) -> None:
    out = tmp_path / "run"
    table = table_file(space, tmp_path)
    document = finish(command(space, table, out, f"search.strategy={strategy}"))
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == sorted(FILES)
    assert document == json.loads((out / "check.json").read_text())
    jsonschema.validate(document, CHECK_SCHEMA)
    assert document["verdict"] == "pass"
    stated = json.loads((out / "architecture.json").read_text())
    keys = "schema space space_options choices genotype params macs predicted_ms".split()
    assert list(stated) == keys
    architecture = Architecture.load(out / "architecture.json")
    built = profiled_space(load_config(out / "config.toml"))
    assert built.from_genotype(stated["genotype"]) == architecture
    assert built.params_and_macs(architecture) == (stated["params"], stated["macs"])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert len(metrics["per_class"]) == 10
    assert document["accuracy"]["torch"] == pytest.approx(metrics["accuracy"], abs=0.011)
    onnx.checker.check_model(onnx.load(out / "model.onnx"))
    assert load_config(out / "config.toml").search.strategy == strategy


def interrupted(line: list[str], folder: Path, when: str, number: signal.Signals) -> int:
    """Start, wait until the history or the checkpoints show `when`, send a signal."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if list(folder.glob(when)):
            process.send_signal(number)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode


@pytest.mark.gpu
@pytest.mark.parametrize("space,strategy", ALL)
def test_a_search_on_a_gpu_ends_with_a_checked_model(space: str, strategy: str, tmp_path) -> None:
    line = command(space, table_file(space, tmp_path), tmp_path / "run", "device='cuda'")
    assert finish([*line, "--strategy", strategy])["verdict"] == "pass"


@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(tmp_path) -> None:
    """Stopped in the search by SIGTERM, killed in the search, stopped in training by SIGINT."""
    space = "nasbench201"
    table = table_file(space, tmp_path)
    whole, part = tmp_path / "whole", tmp_path / "part"
    finish(command(space, table, whole))
    # The measured candidate's latency is part of what makes a run reproducible.
    part.mkdir()
    (part / "config.toml").write_text((whole / "config.toml").read_text())
    measured = [
        line
        for line in (whole / "history.jsonl").read_text().splitlines()
        if json.loads(line)["event"] == "measurement"
    ]
    assert measured
    (part / "history.jsonl").write_text("\n".join(measured) + "\n")
    line = command(space, table, part, resume=True)
    assert interrupted(line, part, "checkpoints/search-*5", signal.SIGTERM) == 143
    assert interrupted(line, part, "checkpoints/search-*10", signal.SIGKILL) == -9
    assert interrupted(line, part, "checkpoints/train-*10", signal.SIGINT) == 130
    finish(line)
    assert (part / "architecture.json").read_text() == (whole / "architecture.json").read_text()
    assert (part / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()
    steps = [
        (r["event"], r["step"])
        for r in map(json.loads, (part / "history.jsonl").read_text().splitlines())
        if "step" in r
    ]
    assert len(steps) == len(set(steps))
    assert not list(part.rglob("*.tmp"))
