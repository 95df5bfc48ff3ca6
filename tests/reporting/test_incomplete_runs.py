"""Reports of runs that have not finished: missing results are named, the rest is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.run_folders import WrittenRun, assert_sound, written_run
from helpers.tiny import tiny_space

from hwnas.reporting.report import render_report


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_every_section_of_a_new_run_says_what_is_missing(tmp_path: Path, name: str) -> None:
    run = written_run(tmp_path, tiny_space(name), stages=())
    page = assert_sound(render_report(run.folder, run.space, {}))
    for words in (
        "Verdict: not checked yet", "has not been measured yet", "has not been checked yet",
        "has not found an architecture yet", "no predicted latencies", "search has not run yet",
        "No candidate has been measured yet", "has not been trained yet", "not written yet",
    ):  # fmt: skip
        assert words in page.text, words


@pytest.mark.parametrize("present", range(16))
def test_any_set_of_files_gives_a_report(tmp_path: Path, present: int) -> None:
    names = ("environment", "architecture", "metrics", "check")
    stages = tuple(name for i, name in enumerate(names) if present >> i & 1)
    text = written_run(tmp_path, stages=stages).page().text
    assert ("Verdict: pass" in text) == ("check" in stages)
    assert ("not found an architecture" in text) == ("architecture" not in stages)


def test_history_alone_gives_a_report(tmp_path: Path) -> None:
    run = written_run(tmp_path, stages=("history",))
    page = assert_sound(render_report(run.folder, run.space, {}))
    assert "budget is 0.5 ms" in page.text
    assert ", chosen" not in page.text


def test_chart_without_values_is_left_out(run: WrittenRun) -> None:
    history = run.folder.history.read_text()
    run.folder.history.write_text(re.sub(r'"entropy": [\d.]+', '"entropy": null', history))
    page = run.page()
    assert "Entropy of the choices: the run has recorded no values." in page.text
    assert "Entropy of the choices" not in page.drawings()
