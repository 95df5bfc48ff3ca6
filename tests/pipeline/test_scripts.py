"""A run from a script needs no guard against being imported again."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.runs import settings, table_file

SCRIPT = """
import hwnas

print("started")
config = hwnas.load_config(None, {settings!r})
document = hwnas.run(config, {out!r}, table={table!r}, show_progress=False)
print(document["verdict"])
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    script = tmp_path / "script.py"
    lines = settings("nasbench201", "budget.memory_mb=1000")
    script.write_text(SCRIPT.format(settings=lines, out=str(out), table=str(table)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "pass"]
    assert "Traceback" not in done.stderr and "memory" not in done.stderr
