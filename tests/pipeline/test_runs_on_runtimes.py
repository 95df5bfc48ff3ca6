"""Whole runs, their own tables included, on every runtime of this machine's processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import RuntimeMissingError
from hwnas.latency_tables.runtimes import RUNTIMES, OnnxModelRuntime, create_runtime
from hwnas.latency_tables.table import LatencyTable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SETTINGS = [
    "space={name='nasbench201', cells=1, channels=4}",
    "data.train_limit=400",
    "data.test_limit=100",
    "budget.fraction=1.0",
    "latency.measure_seconds=5",
    "search.proxy={}",
    "search.steps=4",
    "search.batch_size=8",
    "search.candidates=1",
    "search.max_measured=1",
    "search.ranking_images=50",
    "search.recalibration_batches=2",
    "train.epochs=1",
    "train.batch_size=16",
    "check.measure_seconds=20",
]


def hwnas(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hwnas", *words, "--json"]
    return subprocess.run(line, capture_output=True, text=True, cwd="/")


@pytest.mark.parametrize("name", [name for name in RUNTIMES if name.endswith("-cpu")])
def test_profile_search_and_check_on_a_runtime(name: str, tmp_path: Path) -> None:
    try:
        create_runtime(name, 1).require()
    except RuntimeMissingError as error:
        pytest.skip(str(error))
    out = tmp_path / "run"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    # Whether a busy machine keeps the budget is not what is tested: 0 and 1 are verdicts.
    done = hwnas("run", "--out", str(out), "--set", f"latency.runtime={name}", *settings)
    assert done.returncode in (0, 1, 3), done.stderr
    table = LatencyTable.load(out / "latency_table.json")
    assert table.device.runtime == name
    assert len(table.operators) > 5
    document = json.loads((out / "check.json").read_text())
    assert document["measured"]["runtime"] == name
    assert document["predicted_ms"] > 0
    assert (document["memory_mb"] is not None) == issubclass(RUNTIMES[name], OnnxModelRuntime)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert {statuses[gate] for gate in ("parity", "sqnr", "agreement", "shapes")} == {"pass"}
    model = str(out / "model.onnx")
    again = hwnas("check", model, "--run", str(out), "--runtime", name, "--budget-ms", "1e6")
    assert again.returncode == 0, again.stderr
