"""The section of a report on the training of the found architecture and its test metrics."""

from __future__ import annotations

from typing import Any

from hwnas.reporting.figures import first_rows, line_figure
from hwnas.reporting.formatting import count, in_words, number, percent, sentence_case
from hwnas.reporting.html import Html, Section, columns, facts, missing, section, text
from hwnas.reporting.run_files import Run, number_at, objects_at

SHARES = ("f1", "iou", "average_precision", "precision", "recall")
"""Metrics of a class between 0 and 1; classes are sorted by the first of these that is present."""
NOT_METRICS = ("schema", "metric", "per_class", "epochs", "seconds")
"""Keys of the metrics file that are no metrics of the whole test set."""


def training_section(run: Run) -> Section:
    """The loss of the architecture's training, and its metrics on the test samples."""
    title = "Training"
    if not run.events("train") and not run.metrics:
        return section(title, missing("The architecture has not been trained yet."))
    chart = line_figure(
        "Training loss", [run.series("train", "loss", "training")], "loss",
        "The task's loss, including label smoothing and auxiliary head if they are configured.",
    )  # fmt: skip
    if not run.metrics:
        return section(title, chart, missing("The trained network has not been tested yet."))
    metrics = run.metrics
    known = [
        *_metric_facts(run),
        ("Epochs", count(number_at(metrics, "epochs"))),
        ("Training time", f"{number(number_at(metrics, 'seconds'), 3)} s"),
    ]
    return section(title, facts(known), columns([chart, *_metrics_by_class(metrics)]))


def _metric_facts(run: Run) -> list[tuple[str, str]]:
    """Names and values of all metrics of the test set, beginning with the score.

    The name states where a metric is the mean over the classes.
    """
    metrics, by_class = run.metrics, objects_at(run.metrics, "per_class")
    rest = [key for key in metrics if key != run.metric and key not in NOT_METRICS]
    known = []
    for key in (run.metric, *rest):
        is_mean = bool(by_class) and key in by_class[0]
        name = f"Mean {in_words(key)}" if is_mean else sentence_case(in_words(key))
        value = number_at(metrics, key)
        is_share = key == run.metric or key in SHARES or key.endswith("accuracy")
        known.append((name, percent(value) if is_share else number(value)))
    return known


def _metrics_by_class(metrics: dict[str, Any]) -> list[Html]:
    """A table of the metrics of each class, the weakest class first; nothing without classes."""
    classes = objects_at(metrics, "per_class")
    if not classes:
        return []
    shares = [key for key in classes[0] if key in SHARES]
    first = next((key for key in SHARES if key in shares), "n")
    rows = [
        [
            text(record.get("class")),
            *(text(percent(number_at(record, key))) for key in shares),
            text(count(number_at(record, "n"))),
        ]
        for record in sorted(classes, key=lambda c: number_at(c, first) or 0.0)
    ]
    header = ("class (weakest first)", *map(in_words, shares), "samples")
    return [first_rows("Metrics by class", header, rows)]
