"""The chapter on controls says what the files say, and nothing where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.run_folders import HOSTILE, WrittenRun, measured

from hwnas.reporting.controls import comparison_in_words


def entry(
    score: float, latency_ms: float, difference: tuple[float, float, float]
) -> dict[str, Any]:
    value, low, high = difference
    return {
        "score": score,
        "difference": {"value": value, "low": low, "high": high},
        "measured": measured(latency_ms),
        "ratio": {"value": latency_ms / 0.4, "ci_low": 0.9, "ci_high": 1.1},
        "params": 12_345,
        "same_as": None,
        "error": None,
        "width": None,
    }


def document() -> dict[str, Any]:
    nothing = dict.fromkeys(("score", "params", "same_as", "width"))
    return {
        "schema": 1,
        "metric": "accuracy",
        "samples": 1000,
        "searched": entry(0.9, 0.4, (0, 0, 0)) | {"seconds": {"search": 80.0, "training": 40.0}},
        "controls": {
            "random-1": entry(0.86, 0.41, (0.04, 0.02, 0.06)),
            "random-2": entry(0.9, 0.4, (0, 0, 0)) | {"same_as": "searched"},
            "most-parameters": entry(0.905, 0.39, (-0.005, -0.02, 0.01)),
            "resnet": entry(0.93, 0.38, (-0.03, -0.045, -0.015)) | {"width": 18},
            "darts-v2": nothing | {"error": "the narrowest network exceeds the budget"},
        },
        "random": {
            "networks": 2,
            "mean": 0.88,
            "difference": {"value": 0.02, "low": 0.01, "high": 0.03},
            "seconds_each": 45.0,
            "equal_time": {"networks": 3, "drawn_from": 2, "score": 0.885, "difference": 0.015},
        },
    }


def test_no_chapter_without_controls(run: WrittenRun) -> None:
    assert "What did the search buy?" not in run.page().text


def test_the_chapter_has_a_sentence_a_chart_and_a_table(run: WrittenRun) -> None:
    run.folder.write_json(run.folder.controls_document, document())
    text = run.page().text
    assert "What did the search buy?" in text
    assert "3.00 points worse than the best control, resnet" in text
    assert "In the same time there are 3 of them, of which 2 were trained" in text
    assert "the same network as searched model" in text
    assert "the narrowest network exceeds the budget" in text
    assert "width 18" in text
    # The twin of the searched model is no point of its own.
    chapter = run.html().split('<section id="what-did-the-search-buy"')[1].split("</figure>")[0]
    assert chapter.count('class="dot"') == 4


def test_the_sentence_tells_better_worse_and_undecided_apart() -> None:
    words = comparison_in_words(document()).replace("\u00a0", " ")
    assert words == (
        "The searched model is 2.00 points better than the mean of 2 random networks (95 % "
        "confidence interval 1.00 to 3.00) and is 3.00 points worse than the best control, resnet "
        "(95 % confidence interval -4.50 to -1.50)."
    )
    undecided = document()
    undecided["random"]["difference"]["low"] = -0.01
    assert "is not told apart from the mean of 2 random networks" in comparison_in_words(undecided)


def test_a_metric_without_intervals_has_none() -> None:
    plain = document()
    for figures in (plain["random"], *plain["controls"].values()):
        if "difference" in figures:
            figures["difference"] |= {"low": None, "high": None}
    assert comparison_in_words(plain) == (
        "The searched model is 2.00 points better than the mean of 2 random networks and is 3.00 "
        "points worse than the best control, resnet."
    )


@pytest.mark.parametrize("value", [None, [], "x", 3, {}, HOSTILE])
@pytest.mark.parametrize("key", ["searched", "controls", "random", "metric", "samples"])
def test_values_of_other_types_count_as_unknown(key: str, value: object, run: WrittenRun) -> None:
    run.folder.write_json(run.folder.controls_document, document() | {key: value})
    assert HOSTILE not in run.html()
