"""What a power cut leaves of a run folder, at every moment of a short life of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from hwnas.evaluators.storage import open_study
from hwnas.runs.checkpoints import load_checkpoint
from hwnas.runs.run_folder import RunFolder

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")

PROGRAM = """
import os, sys
from pathlib import Path
import torch
from optuna.trial import create_trial
from hwnas.evaluators.storage import open_study
from hwnas.runs.checkpoints import save_checkpoint
from hwnas.runs.run_folder import RunFolder

def done(what):
    os.write(2, f"{what}\\n".encode())

root = Path(sys.argv[1])
folder = RunFolder(root / "runs" / "run-001")
folder.create()
done("run 0")
study = open_study(str(root / "shared.log"), "shared", "maximize", "storage")
for step in range(1, 5):
    folder.append_history({"event": "search", "step": step})
    done(f"history {step}")
    study.add_trial(create_trial(value=float(step)))
    done(f"trials {step}")
    save_checkpoint(folder.checkpoints, "search", step, {"step": step, "x": torch.arange(step)})
    done(f"checkpoint {step}")
    folder.write_json(folder.metrics, {"step": step, "text": "x" * 1000 * step})
    done(f"metrics {step}")
"""


def last(said: str, what: str) -> int:
    """The last step for which the program said that something is on the disk; 0 for none."""
    return max([int(step) for step in re.findall(rf"^{what} (\d+)$", said, re.MULTILINE)] + [0])


def assert_recovers(root: Path, said: str) -> None:
    """Whatever was said to be done is there, and everything is a state that the program wrote."""
    folder = RunFolder(root / "runs" / "run-001")
    if "run 0" in said:
        assert folder.checkpoints.is_dir()
    steps = [record["step"] for record in folder.read_history()]
    assert steps in ([*range(1, last(said, "history") + 1)], [*range(1, len(steps) + 1)])
    assert len(steps) >= last(said, "history")
    loaded = load_checkpoint(folder.checkpoints, "search")
    assert (0 if loaded is None else loaded[0]) >= last(said, "checkpoint")
    if loaded is not None:
        assert loaded[1]["step"] == loaded[0]
        assert torch.equal(loaded[1]["x"], torch.arange(loaded[0]))
    if folder.metrics.exists():
        metrics = json.loads(folder.metrics.read_text())
        assert metrics == {"step": metrics["step"], "text": "x" * 1000 * metrics["step"]}
        assert metrics["step"] >= last(said, "metrics")
    else:
        assert last(said, "metrics") == 0
    if folder.path.exists():
        folder.append_history({"event": "search", "step": len(steps) + 1})
        assert len(folder.read_history()) == len(steps) + 1
    # A lock that nobody holds is ignored after 30 seconds.
    (root / "shared.log.lock").unlink(missing_ok=True)
    study = open_study(str(root / "shared.log"), "shared", "maximize", "storage")
    values = [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    assert values == [float(step) for step in range(1, len(values) + 1)]
    assert len(values) >= last(said, "trials")
    study.ask()


def test_a_power_cut_at_any_moment_leaves_what_was_done(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from power_cuts import Disk, trace

    root = tmp_path / "disk"
    root.mkdir()
    calls = trace([sys.executable, "-c", PROGRAM, str(root)])
    disk, rng, states = Disk(root), np.random.default_rng(0), 0
    # In memory, where waiting for the disk takes no time.
    with TemporaryDirectory(dir="/dev/shm") as memory:
        for call in calls:
            for draw in (None, rng, rng) if disk.do(call) else ():
                cut = Path(memory) / str(states)
                disk.write_remains(cut, draw)
                assert_recovers(cut, disk.said)
                states += 1
    assert last(disk.said, "metrics") == 4
    assert states > 200
