"""Calls in fresh processes: results, errors, and that the processes end with their parent."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import wait_for_child, wait_for_end

from hwnas.errors import InputError
from hwnas.latency_tables.files import read_json
from hwnas.latency_tables.measuring.child import ChildEndedError, call_in_child

SCRIPT = """
import sys
from hwnas.latency_tables.measuring.child import call_in_child
import time
print("started", flush=True)
call_in_child(time.sleep, 60)
"""


def test_a_call_returns_its_result_from_another_process() -> None:
    assert call_in_child(math.gcd, 12, 18) == 6
    assert call_in_child(os.getpid) != os.getpid()


def test_an_exception_of_the_function_is_raised_here(tmp_path) -> None:
    with pytest.raises(ValueError, match="math domain error|nonnegative|positive"):
        call_in_child(math.sqrt, -1)
    with pytest.raises(InputError, match=r"none\.json") as here:
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError) as raised:
        call_in_child(read_json, tmp_path / "none.json")
    assert str(raised.value) == str(here.value)
    assert vars(raised.value) == vars(here.value)


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(ChildEndedError):
        call_in_child(os._exit, 0)
    with pytest.raises(ChildEndedError):
        call_in_child(signal.raise_signal, signal.SIGKILL)


def test_what_a_library_prints_does_not_disturb_the_result() -> None:
    assert call_in_child(print, "noise") is None


def test_the_callers_script_is_not_imported_again(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom hwnas.latency_tables.measuring.child import call_in_child\n"
        "print('imported')\nprint(call_in_child(os.getppid) == os.getpid())\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported", "True"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_a_killed_parent_leaves_no_process_behind(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    parent.stdout.readline()
    child = wait_for_child(parent.pid)
    parent.kill()
    parent.wait()
    wait_for_end(child)
