"""Android devices by adb, against a program that follows its documented behaviour.

`adb -s SERIAL shell -T COMMAND` runs the command on the device with its three pipes and its exit
code (the shell protocol, since Android 7); errors are one line that begins with `error:` or `adb:`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import tomli_w

from hwnas.errors import DeviceError, RuntimeMissingError
from hwnas.latency_tables.measuring.speed_reference import reference_graph
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.timing import Protocol

SERIAL = "R58M123ABC"
ADB = """#!/bin/sh
[ "$1" = -s ] || { echo "adb: no device given" >&2; exit 1; }
serial=$2
shift 2
case "$serial" in
  R58M123ABC) ;;
  locked) echo "error: device unauthorized." >&2; exit 1 ;;
  away) echo "error: device offline" >&2; exit 1 ;;
  *) echo "error: device '$serial' not found" >&2; exit 1 ;;
esac
[ "$1 $2" = "shell -T" ] || { echo "adb: unknown command $1" >&2; exit 1; }
shift 2
exec sh -c "$*"
"""


@pytest.fixture
def phone(monkeypatch, tmp_path):
    """Writes a `devices.toml` with a phone, and returns the runtime on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "adb"
    program.write_text(ADB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened = []

    def make(serial: str = SERIAL):
        stated = {
            "transport": "adb",
            "serial": serial,
            "python": ["env", "ANDROID=1", sys.executable],
            "workdir": str(tmp_path / "work"),
        }
        Path("devices.toml").write_text(tomli_w.dumps({"phone": stated}))
        opened.append(runtime_on("phone", "onnxruntime-cpu", 1))
        return opened[-1]

    yield make
    for runtime in opened:
        runtime.connection.close()


def test_a_phone_measures(phone, tmp_path) -> None:
    runtime = phone()
    runtime.require()
    graph = reference_graph()
    protocol = Protocol(
        warmup_s=0.01, min_rounds=5, max_rounds=5, blocks_per_round=1, max_repeats=0
    )
    found = runtime.measure({"a": runtime.prepare_onnx(graph.model, graph.feeds)}, protocol)
    assert len(found["a"].rounds_ms) == 5
    assert len(list((tmp_path / "work").iterdir())) == 3


@pytest.mark.parametrize(
    "serial, message",
    [
        ("locked", "has not allowed this computer to debug it; confirm the question"),
        ("away", "cannot be reached, got error: device offline; `adb devices` lists"),
        ("other", "cannot be reached, got error: device 'other' not found"),
    ],
)
def test_a_phone_that_cannot_be_reached_is_named(phone, serial, message) -> None:
    with pytest.raises(DeviceError) as caught:
        phone(serial).require()
    assert str(caught.value).startswith("phone: ")
    assert message in str(caught.value)


def test_a_missing_adb_is_named(phone, monkeypatch, tmp_path) -> None:
    runtime = phone()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissingError, match="the program adb is not installed"):
        runtime.require()
