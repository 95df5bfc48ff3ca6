"""Two processes that search together: the same weights in both, and those of the whole batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.runs import settings, table_file
from helpers.search_in_ranks import SEARCHES, STEPS
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).parents[1] / "helpers" / "search_in_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_are_one_search(tmp_path) -> None:
    for line in ([*TORCHRUN, SCRIPT], [sys.executable, SCRIPT]):
        done = subprocess.run(
            [*line, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert STEPS > 10, "long enough that the processes compare their weights"
    found = {}
    for search in SEARCHES:
        first, second, alone = (
            load_file(tmp_path / f"{search}-{name}.safetensors") for name in ("2-0", "2-1", "1-0")
        )
        for name, tensor in alone.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], tensor, rtol=1e-9, atol=1e-12)
        found[search] = first["alpha"]
    assert (found["first"] - found["second"]).abs().max() > 1e-3, "the orders differ"


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_search_goes_on(order: int, tmp_path) -> None:
    table = table_file("nasbench201", tmp_path)
    out = tmp_path / "run"
    line = [*TORCHRUN, "--max-restarts=1", "-m", "hwnas", "search", "default", "--json"]
    line += ["--out", str(out), "--table", str(table)]
    more = ["search.steps=60", "search.checkpoint_every=5", "data.train_limit=400"]
    more.append(f"search.order={order}")
    for setting in settings("nasbench201", *more):
        line += ["--set", setting]
    started = subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/search-*")):
        assert started.poll() is None and time.monotonic() < deadline, started.communicate()[1]
        time.sleep(0.05)
    os.kill(_follower(started.pid), signal.SIGKILL)
    stdout, stderr = started.communicate(timeout=200)
    assert started.returncode == 0, stderr
    assert json.loads(stdout)["space"] == "nasbench201"
    steps = [
        record["step"]
        for record in map(json.loads, (out / "history.jsonl").read_text().splitlines())
        if record["event"] == "search"
    ]
    assert steps == list(range(10, 61, 10))


def _follower(parent: int) -> int:
    """The process of rank 1, found by its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            if is_child and b"\0RANK=1\0" in (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("rank 1 is not running")


def test_what_cannot_be_divided_is_refused(tmp_path) -> None:
    from hwnas.config import load_config
    from hwnas.errors import InputError
    from hwnas.pipeline.compatibility import check_ranks
    from hwnas.runs.ranks import Ranks

    config = load_config(None, settings("nasbench201", "search.batch_size=7"))
    with pytest.raises(InputError, match="batch_size: 2 processes"):
        check_ranks(config.search, Ranks(size=2), "search")
