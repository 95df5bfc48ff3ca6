"""What a report says of a model at chance level, and of figures without a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.run_folders import page_of_edited_check

WARNING = "accuracy 0.33 is not above 0.33, the share of the <largest> class"


def test_a_score_at_chance_level_is_warned_of(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check.update(verdict="inconclusive", warnings=[WARNING, 7])
        figures = {"value": 0.33, "limit": 0.33}
        check["gates"] += [
            {"name": "accuracy", "status": "reported", "value": 0.33, "limit": None},
            {"name": "accuracy_above_chance", "status": "inconclusive", **figures},
        ]

    page = page_of_edited_check(tmp_path, edit)
    assert f"Warning: {WARNING}" in page.text
    assert "accuracy reported 33 % \u2013 accuracy on the test samples: no minimum" in page.text
    words = "accuracy with its 95 % interval: above that of the best answer that ignores the input"
    assert f"accuracy_above_chance inconclusive 33 % 33 % {words}" in page.text
    assert ("span", {"class": "status reported"}) in page.elements


def test_a_latency_without_a_budget_is_reported(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check["gates"][0].update(status="reported", limit=None)

    text = page_of_edited_check(tmp_path, edit).text
    assert "budget reported 0.4213 ms \u2013 measured latency: no budget is configured" in text
