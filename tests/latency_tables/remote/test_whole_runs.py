"""Whole commands on devices that are logged in to, and what a lost connection does to them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
import tomli_w
from helpers.loopback import NAME
from helpers.runs import settings

from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.configuration import load_config

pytestmark = pytest.mark.slow


def command(*arguments: str, space: str = "nasbench201") -> list[str]:
    given = [part for setting in settings(space) for part in ("--set", setting)]
    return [sys.executable, "-m", "hwnas", *arguments, *given]


def finished(line: list[str], folder: Path) -> str:
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_keeps_the_budgets_of_two_devices(inventory) -> None:
    stated = tomllib.loads((inventory / "devices.toml").read_text())[NAME]
    other = stated | {"workdir": "~/other", "threads": 2}
    (inventory / "devices.toml").write_text(tomli_w.dumps({NAME: stated, "other": other}))
    line = ["run", "--device-name", NAME, "--device-name", "other", "--budget-ms", "1e6"]
    found = json.loads(finished(command(*line, "--out", "run", "--json"), inventory))
    gates = {gate["name"]: gate["status"] for gate in found["gates"]}
    assert found["verdict"] == "pass"
    assert gates["measured: other"] == "pass"
    assert gates[f"parity: onnxruntime-cpu on {NAME}"] == "pass"
    assert found["environment"]["elsewhere"]["name"] == NAME
    assert found["memory_mb"] is None and found["percentiles"]["p50_ms"] > 0
    config = load_config(inventory / "run" / "config.toml")
    assert (config.latency.device, config.devices[0].name) == (NAME, "other")
    table = LatencyTable.load(inventory / "run" / "latency_table.json")
    assert table.device.threads == 1 and table.reference is not None
    again = [sys.executable, "-m", "hwnas", "check", "run/model.onnx", "--device-name", "other"]
    document = json.loads(finished([*again, "--run", "run", "--json"], inventory))
    assert document["environment"]["threads"] == 2
    audit = ["table", "audit", "run/latency_table.json", "-k", "3", "--seconds", "1"]
    out = finished(command(*audit, "--device-name", NAME), inventory)
    assert "networks: 3" in out


def test_a_profile_is_the_same_when_its_connection_is_cut_ten_times(inventory, server) -> None:
    line = command("profile", "--device-name", NAME, "--seconds", "0.5")
    finished([*line, "--out", "whole.json"], inventory)
    process = subprocess.Popen(
        [*line, "--out", "cut.json"], cwd=inventory, stderr=subprocess.PIPE, text=True
    )
    cuts = 0
    randomness = random.Random(0)
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    errors: list[str] = []
    reader.start()
    while not server.scripts() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    while process.poll() is None:
        time.sleep(randomness.uniform(0.2, 1.0))
        victims = [*server.scripts(), *_clients(server)]
        if cuts < 10 and victims:
            os.kill(randomness.choice(victims), signal.SIGKILL)
            cuts += 1
    reader.join()
    assert process.returncode == 0, errors
    assert cuts == 10
    whole, cut = (LatencyTable.load(inventory / name) for name in ("whole.json", "cut.json"))
    assert cut.specs() == whole.specs()
    assert cut.device == whole.device
    fewest = [min(row.rounds for row in table.operators) for table in (whole, cut)]
    assert fewest[1] >= min(10, fewest[0])
    assert "timeout" not in {row.status for row in cut.operators}


def test_ctrl_c_ends_the_measurement_there(inventory, server) -> None:
    line = command("profile", "--device-name", NAME, "--seconds", "5", "--out", "table.json")
    process = subprocess.Popen(line, cwd=inventory, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not server.scripts() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1.0)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.wait(timeout=60) == 130
    end = time.monotonic() + 10
    while server.scripts() and time.monotonic() < end:
        time.sleep(0.1)
    assert not server.scripts()


def _clients(server) -> list[int]:
    """The processes of ssh that lead to the server."""
    found = subprocess.run(["pgrep", "-f", f"ssh -F {server.folder}"], capture_output=True)
    return [int(number) for number in found.stdout.split()]
