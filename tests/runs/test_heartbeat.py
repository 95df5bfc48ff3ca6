"""What a running process leaves for others to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hwnas.runs.heartbeat import Heartbeat, recorded
from hwnas.runs.progress import silent


def test_a_stage_leaves_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "beat.json"
    with recorded(silent, path)("search (2 of 5)") as advance:
        assert Heartbeat.read(path).done == 0
        advance(10, 40, "loss 0.5")
        advance(40, 40, "loss 0.1")
    found = Heartbeat.read(path)
    assert found is not None
    assert (found.stage, found.done, found.total, found.first) == ("search (2 of 5)", 40, 40, 10)
    assert (found.pid, found.text, found.is_alive) == (os.getpid(), "loss 0.1", True)
    assert found.memory_mb > 10
    assert found.seconds_left == 0.0


def test_the_time_left_does_not_count_steps_of_an_earlier_process() -> None:
    beat = Heartbeat(1, "train", 30, 60, "", 100.0, 20, 120.0, 1.0)
    assert beat.seconds_left == 60.0
    assert Heartbeat(1, "train", 20, 60, "", 100.0, 20, 120.0, 1.0).seconds_left is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"pid": 1}', json.dumps(dict.fromkeys("abc", 1)), "\x00"]
)
def test_files_of_another_form_are_no_heartbeat(tmp_path: Path, content: str) -> None:
    path = tmp_path / "beat.json"
    assert Heartbeat.read(path) is None
    path.write_text(content)
    assert Heartbeat.read(path) is None
    beat = Heartbeat(0, "s", 1, 2, "", 1.0, 0, 2.0, 1.0)
    beat.write(path)  # no process has the number 0
    assert Heartbeat.read(path) is None


def test_a_folder_that_is_gone_does_not_stop_the_run(tmp_path: Path) -> None:
    with recorded(silent, tmp_path / "gone" / "beat.json")("train") as advance:
        advance(1, 1, "")
