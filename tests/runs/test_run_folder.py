"""History, lock and paths of a run folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.runs.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    return run_folder


def test_a_line_cut_short_is_left_out(folder) -> None:
    folder.append_history({"event": "search", "step": 1})
    with folder.history.open("a") as file:
        file.write('{"event": "search", "st')
    assert folder.read_history() == [{"event": "search", "step": 1}]


def test_a_line_after_one_that_was_cut_short_is_read(folder) -> None:
    folder.append_history({"event": "search", "step": 1})
    with folder.history.open("a") as file:
        file.write('{"event": "search", "st')
    folder.append_history({"event": "search", "step": 2})
    assert [record["step"] for record in folder.read_history()] == [1, 2]
    assert folder.history.read_text().count("\n") == 2


def test_rewinding_forgets_later_steps_of_one_stage(folder) -> None:
    for step in (10, 20, 30):
        folder.append_history({"event": "search", "step": step})
        folder.append_history({"event": "train", "step": step})
    folder.append_history({"event": "measurement", "predicted_ms": 1.0})
    folder.rewind_history("search", 20)
    events = [(r["event"], r.get("step")) for r in folder.read_history()]
    assert ("search", 30) not in events
    assert ("search", 20) in events
    assert ("train", 30) in events
    assert ("measurement", None) in events


def test_a_second_process_is_kept_out(folder) -> None:
    code = (
        "import sys; from hwnas.runs.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked(): pass"
    )
    with folder.locked():
        second = subprocess.run(
            [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True
        )
    assert second.returncode != 0
    assert "another process" in second.stderr
    after = subprocess.run([sys.executable, "-c", code, str(folder.path)])
    assert after.returncode == 0


def test_missing_files_name_the_command_that_writes_them(folder) -> None:
    with pytest.raises(InputError, match="hwnas train"):
        folder.require(folder.weights)


def test_a_file_in_the_way_is_an_input_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the folder cannot be written"):
        RunFolder(tmp_path / "file" / "run").create()


@pytest.mark.parametrize("text", ["", "[1]", '{"a": ', "[" * 100_000])
def test_damaged_json_is_an_input_error(folder, text: str) -> None:
    folder.metrics.write_text(text)
    with pytest.raises(InputError, match="metrics.json"):
        folder.read_json(folder.metrics)


def test_the_check_of_a_model_stands_beside_it(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder.path)
    assert folder.check_of(Path("model.onnx")) == folder.check
    assert (
        folder.check_of(folder.variants / "model.int8.onnx") == folder.variants / "check.int8.json"
    )
    for elsewhere in ("model.int8.onnx", "variants/other.onnx", "deeper/model.onnx"):
        assert folder.check_of(folder.path / elsewhere) is None


def test_checks_of_variants_belong_to_them(folder) -> None:
    folder.variants.mkdir()
    names = (
        "variants.json",
        "model.fp16.onnx",
        "model.int8.onnx",
        "check.int8.json",
        "check.int8.html",
    )
    for name in (*names, "notes.txt"):
        (folder.variants / name).touch()
    assert [path.name for path in folder.variant_files()] == list(names)


def test_temporary_files_of_a_killed_process_are_removed_at_the_next_start(folder) -> None:
    code = (
        "import os, sys; from hwnas.runs.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).temporary_folder() as temporary:\n"
        "    (temporary / 'large').write_bytes(bytes(9))\n"
        "    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False)
    assert done.returncode == -9
    assert (folder.temporary / "large").exists()
    (folder.path / ".check.json.tmp").touch()
    (folder.checkpoints / ".state.json.tmp").touch()
    with folder.locked():
        assert not folder.temporary.exists()
        assert not list(folder.path.rglob(".*.tmp"))
    with folder.temporary_folder() as temporary:
        assert temporary.parent == folder.path
    assert not temporary.exists()
