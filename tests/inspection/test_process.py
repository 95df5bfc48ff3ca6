"""The process that inspects a file ends with its parent and leaves no temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile_files import CASES
from helpers.processes import is_running, wait_for_child, wait_for_end
from helpers.small_models import model_of, saved
from onnx import helper, numpy_helper

from hwnas.inspection import __main__ as inspection
from hwnas.inspection.process import inspect_model

SLOW = "a_hundred_thousand_nodes"
CODE = """
import sys
from hwnas.inspection.process import InspectionLimits, inspect_model
inspect_model(sys.argv[1], InspectionLimits(8000, 600))
"""


def weighty_model():
    """A model whose weights are so large that the inspection leaves them out."""
    weights = numpy_helper.from_array(np.ones((100, 100), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model_of([node], {"x": ("n", 100)}, {"y": ("n", 100)}, [weights])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="children are listed by Linux")
def test_a_killed_check_leaves_no_process_and_no_file(tmp_path) -> None:
    write, _ = CASES[SLOW]
    model, temporary = write(tmp_path), tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    parent = subprocess.Popen([sys.executable, "-c", CODE, str(model)], env=environment)
    try:
        child = wait_for_child(parent.pid)
        time.sleep(0.5)
        assert is_running(child)
        assert not list(temporary.iterdir())
    finally:
        parent.kill()
        parent.wait()
    wait_for_end(child)
    assert not list(temporary.iterdir())


def test_the_process_ends_when_its_parent_is_gone(tmp_path) -> None:
    """It waits for a file that nobody writes, in place of a long inspection."""
    os.mkfifo(tmp_path / "endless")
    code = (
        "import sys, hwnas.inspection.__main__ as inspection\n"
        "inspection.describe_npz = lambda path: path.read_bytes()\n"
        "inspection.main('npz', sys.argv[1], 'mark', 8000, 600)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "endless")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=30) == 1


@pytest.mark.parametrize("has_proc", [True, False])
def test_the_placeholder_is_a_regular_file_that_onnx_accepts(
    tmp_path, monkeypatch, has_proc
) -> None:
    """Only a file without further hard links and no symbolic link is."""
    model = saved(weighty_model(), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inspection, "_has_proc", lambda: has_proc)
    with inspection._placeholder() as placeholder:
        found = Path(placeholder)
        assert found.is_file()
        assert not found.is_symlink()
        assert found.stat().st_nlink == 1
        assert inspection.describe_model(model, "mark", placeholder)["params"] == 10_000
        folder = Path.cwd()
    os.chdir(tmp_path)
    assert folder.exists() == has_proc


def test_the_working_folder_may_be_gone(tmp_path, monkeypatch) -> None:
    model, gone = saved(weighty_model(), tmp_path / "m.onnx"), tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert inspect_model(model).params == 10_000
