"""The summary at the top of a report: verdict and latency in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.run_folders import page_of_edited_check, written_run
from helpers.tiny import tiny_space


def test_summary_begins_with_the_verdict_and_its_reasons(tmp_path: Path) -> None:
    text = written_run(tmp_path, stages=("architecture", "check")).page().text
    first = text.index("Verdict: pass")
    assert first < text.index("Check of the exported model")
    assert text[first:].startswith(
        "Verdict: pass The exported model takes 0.4213 ms (95 % confidence interval 0.4129 to "
        "0.4297), which is within its budget of 0.5 ms. The accuracy on the test samples is 87.3 % "
        "(95 % confidence interval 85.1 to 89.2)."
    )


def test_failed_gates_are_named(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check["verdict"] = "fail"
        check["budget_ms"] = 0.4
        check["gates"][0]["status"] = "fail"
        check["gates"][3]["status"] = "fail"

    page = page_of_edited_check(tmp_path, edit)
    assert "over its budget of 0.4 ms." in page.text
    assert "Gates that failed: budget, agreement." in page.text
    assert "Verdict: fail" in page.text
    assert "Verdict: pass" not in page.text
    assert ("section", {"class": "banner fail", "aria-labelledby": "verdict"}) in page.elements


def test_inconclusive_latency_is_too_close_to_the_budget(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check.update(verdict="inconclusive", budget_ms=0.42)

    page = page_of_edited_check(tmp_path, edit)
    assert "Verdict: inconclusive" in page.text
    assert "too close to tell whether it keeps its budget of 0.42 ms." in page.text
    attributes = {"class": "banner inconclusive", "aria-labelledby": "verdict"}
    assert ("section", attributes) in page.elements


def test_model_that_fails_another_gate_is_still_within_its_budget(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check["verdict"] = "fail"
        check["gates"][2]["status"] = "fail"

    text = page_of_edited_check(tmp_path, edit).text
    assert "Verdict: fail" in text
    assert "within its budget of 0.5 ms" in text
    assert "Gates that failed: sqnr." in text


def test_latency_before_the_check_is_that_of_the_search(tmp_path: Path) -> None:
    run = written_run(tmp_path, tiny_space("darts"), stages=("history", "architecture"))
    text = run.page().text
    assert "Verdict: not checked yet" in text
    assert "In the measurement during the search, the exported model took 0.4213 ms" in text
    assert "Stages that have not run yet: training, check." in text
