"""The search in a report: the Pareto front, and the measured candidates and their scores."""

from __future__ import annotations

import json

import pytest
from helpers.run_folders import WrittenRun

from hwnas.reporting.run_files import Run
from hwnas.reporting.search import search_figures
from hwnas.runs.run_folder import RunFolder


def test_report_shows_the_pareto_front_of_the_evaluated_architectures(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    folder.config.write_text("")
    figures = [("a<b>", 1.0, 0.9), ("b", 2.0, 0.2), ("c", 3.0, 0.1), ("d", 2.5, 0.6)]
    for step, (name, latency_ms, loss) in enumerate(figures, start=1):
        record = {"step": step, "loss": loss, "latency_ms": latency_ms, "architecture": name}
        folder.append_history({"event": "search", **record})
    html = "".join(search_figures(Run.read(folder)))
    assert "3 of 4 evaluated architectures are Pareto-optimal" in html
    # The front dominates the part of the rectangle 1..3 x 0.1..0.9 to the right of b and above it.
    assert f"{100 * 0.5 * 0.7 / 0.8:.2f}" in html.replace("\u2009", "").replace("\xa0", "")
    rows = [row for row in html.split("<tr>") if "knee" in row]
    assert len(rows) == 1
    assert ">b<" in rows[0]
    assert "a&lt;b&gt;" in html
    assert "<b>" not in html


def test_candidates_are_drawn_as_score_over_latency(run: WrittenRun) -> None:
    page = run.page()
    assert "Accuracy with shared weights over latency" in page.drawings()
    source = run.html().replace("\xa0", " ")
    assert "<title>1: 71 % at 0.53 ms (0.5194 to 0.5406)</title>" in source
    assert "<title>2: 69 % at 0.4213 ms (0.4129 to 0.4297)</title>" in source
    assert "within budget accuracy with shared weights 1 0.44 ms" in page.text
    assert "far below that of the same architecture after its own training" in page.text
    assert "accuracy in the search" not in page.text


@pytest.mark.parametrize(
    "evaluator, words",
    [
        ("training", "accuracy after a short training"),
        ("zero-cost", "rank by zero-cost score"),
        ("table", "accuracy in the table"),
    ],
)
def test_score_of_candidates_is_named_after_the_evaluator(
    run: WrittenRun, evaluator: str, words: str
) -> None:
    run.folder.config.write_text(f'[search]\nevaluator = "{evaluator}"')
    page = run.page()
    assert f"within budget {words} 1 0.44 ms" in page.text
    assert "shared weights" not in page.text
    assert f"{words[0].upper()}{words[1:]} over latency" in page.drawings()


@pytest.mark.parametrize("scores", [[0.7, None], [None, None], [0.7, 1e300]])
def test_scores_over_latency_need_two_scores(run: WrittenRun, scores: list[float | None]) -> None:
    lines = []
    values = iter(scores)
    for line in run.folder.history.read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "measurement":
            record["supernet_accuracy"] = next(values)
        lines.append(json.dumps(record))
    run.folder.history.write_text("\n".join(lines))
    page = run.page()
    assert "Accuracy with shared weights over latency" not in page.drawings()
    assert "Predicted and measured latency" in page.drawings()


def test_curves_are_explained_by_the_evaluator(run: WrittenRun) -> None:
    assert "The loss is the supernet's on training batches" in run.page().text
    run.folder.config.write_text('[search]\nevaluator = "training"')
    assert "The loss is that which the evaluator reported" in run.page().text
