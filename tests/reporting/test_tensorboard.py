"""Histories as event files that TensorBoard reads back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.run_folders import write_run
from helpers.tiny import tiny_space

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.reporting.run_files import distinct_names
from hwnas.reporting.tensorboard import LoggedRun, write_events
from hwnas.runs.run_folder import RunFolder


def test_tensorboard_reads_the_scalars_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    space = tiny_space("nasbench201")
    folder = RunFolder(tmp_path / "run")
    write_run(folder, space)
    write_events([LoggedRun(folder, space)], tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs" / "run")).Reload()
    history = [json.loads(line) for line in folder.history.read_text().splitlines()]
    searched = [record for record in history if record["event"] == "search"]
    found = {e.step: e.value for e in events.Scalars("search/loss")}
    assert found == pytest.approx({r["step"]: r["loss"] for r in searched}, rel=1e-6)
    trained = [record for record in history if record["event"] == "train"]
    assert len(events.Scalars("train/loss")) == len(trained)
    choice = space.choices[0]
    last = events.Scalars(f"{choice.name}/{choice.options[1]}")[-1]
    assert last.value == pytest.approx(searched[-1]["probabilities"][0][1], rel=1e-5)
    with pytest.raises(InputError, match="exists already"):
        write_events([LoggedRun(folder, space)], tmp_path / "logs")


def test_runs_with_equal_folder_names_get_the_names_of_their_parents() -> None:
    paths = ["/a/runs/r1", "/b/runs/r1", "/b/runs/r2", "/b/other/r1"]
    folders = [RunFolder(Path(path)) for path in paths]
    assert distinct_names(folders) == ["a/runs/r1", "b/runs/r1", "r2", "other/r1"]
    with pytest.raises(InputError, match="twice"):
        distinct_names([folders[0], folders[2], folders[0]])


def test_error_without_tensorboard_states_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'hwnas\[tensorboard\]'"):
        write_events([], tmp_path)


def test_a_trained_network_has_its_graph_and_its_confusions(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    space = tiny_space("nasbench201")
    folder = RunFolder(tmp_path / "run")
    architecture, _ = write_run(folder, space)
    write_events([LoggedRun(folder, space, space.network(architecture))], tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs" / "run")).Reload()
    assert len(events.Graph().node) > 10
    (image,) = events.Images("test/confusion")
    assert (image.width, image.height) == (318, 318)
    shares = {e.step: e.value for e in events.Scalars("search/latency_of_budget")}
    latencies = {e.step: e.value for e in events.Scalars("search/latency_ms")}
    assert shares == pytest.approx({step: ms / 0.5 for step, ms in latencies.items()})
    assert "test/confusion/text_summary" in events.Tags()["tensors"]
