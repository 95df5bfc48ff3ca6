"""Reports of runs that have not finished: missing results are named, the rest is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.run_folders import STAGES, WrittenRun, assert_sound, written_run
from helpers.tiny import tiny_space

from hwnas.reporting.report import render_report

CHAPTERS = {
    "How to use this model": ("model",),
    "Results on the test samples": ("metrics",),
    "Check of the exported model": ("check",),
    "Architecture": ("architecture",),
    "Where the time goes": ("architecture",),
    "Progress of the search": ("history",),
    "Training": ("history",),
}
"""Chapters, and the files without which they have no content."""


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_page_of_a_new_run_names_what_is_to_come_and_has_no_empty_chapters(
    tmp_path: Path, name: str
) -> None:
    run = written_run(tmp_path, tiny_space(name), stages=())
    page = assert_sound(render_report(run.folder, run.space, {}))
    for words in (
        "Verdict: not checked yet", "has not been measured yet",
        "Stages that have not run yet: search, training, check.", "not written yet",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.chapters() == ["How to reproduce this run"]
    assert "not known" not in page.text.partition("How to reproduce")[0]


@pytest.mark.parametrize("left_out", ["history", "architecture", "metrics", "model", "check"])
def test_chapters_without_content_are_left_out(tmp_path: Path, left_out: str) -> None:
    run = written_run(tmp_path, stages=tuple(stage for stage in STAGES if stage != left_out))
    expected = [title for title, files in CHAPTERS.items() if left_out not in files]
    assert run.page().chapters() == [*expected, "How to reproduce this run"]


@pytest.mark.parametrize("present", range(16))
def test_any_set_of_files_gives_a_report(tmp_path: Path, present: int) -> None:
    names = ("environment", "architecture", "metrics", "check")
    stages = tuple(name for i, name in enumerate(names) if present >> i & 1)
    page = written_run(tmp_path, stages=stages).page()
    assert ("Verdict: pass" in page.text) == ("check" in stages)
    assert ("Architecture" in page.chapters()) == ("architecture" in stages)


def test_run_of_an_old_version_has_the_chapters_that_its_files_allow(run: WrittenRun) -> None:
    """Such a run has no predictions, and its history no scores beside the loss."""
    run.folder.predictions.unlink()
    history = run.folder.history.read_text()
    run.folder.history.write_text(re.sub(r', "epoch": .*?(?=})', "", history))
    page = run.page()
    assert page.chapters() == [*CHAPTERS, "How to reproduce this run"]
    assert page.drawings().isdisjoint({"Confusion matrix", "Learning curve"})
    assert "Training loss" in page.drawings()
    for words in ("Predicted correctly", "Most frequent mistakes", "Learning curve"):
        assert words not in page.text
    assert "img" not in {tag for tag, _ in page.elements}


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
