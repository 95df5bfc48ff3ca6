"""The chapters of a report on the training of the found architecture and its test results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwnas.reporting.figures import first_rows, line_figure
from hwnas.reporting.formatting import (
    CI,
    CONFIDENCE_INTERVAL,
    count,
    in_words,
    number,
    percent,
    sentence_case,
)
from hwnas.reporting.generated import GeneratedImages, generated_figures
from hwnas.reporting.html import (
    Html,
    Section,
    columns,
    explained,
    facts,
    figure,
    section,
    stack,
    text,
)
from hwnas.reporting.predictions import (
    Predictions,
    confusion_matrix,
    frequent_mistakes,
    sample_parts,
)
from hwnas.reporting.run_files import Run, Series, number_at, objects_at

SHARES = ("f1", "iou", "average_precision", "precision", "recall", "roc_auc", "pr_auc")
"""Metrics of a class between 0 and 1; classes are sorted by the first of these that is present."""
CURVE = (
    "The curve is that of the moving average of the weights, without augmentation. No samples are "
    "held out for it, since that would change the trained network: it compares fixed random "
    "subsets of the training and of the test samples. Nothing was decided by the test samples: the "
    "number of epochs is that of the configuration, and the final weights are deployed. To choose "
    "a number of epochs by this curve would make the result on the test samples too good."
)
"""How the learning curve comes about."""
NOT_METRICS = ("schema", "metric", "per_class", "epochs", "seconds")
"""Keys of the metrics file that are no metrics of the whole test set."""


def results_section(
    run: Run, predictions: Predictions | None, generated: GeneratedImages | None
) -> list[Section]:
    """The trained network on the test samples; nothing before it was tested.

    Args:
        run: the run.
        predictions: predicted classes of the test samples, where they are stored.
        generated: images that the network made, where they are stored.
    """
    if not run.metrics:
        return []
    parts = [facts(_metric_facts(run)), *generated_figures(generated)]
    by_class = _metrics_by_class(run.metrics)
    if predictions is not None:
        tables = [*frequent_mistakes(predictions), *by_class]
        parts.append(columns([*confusion_matrix(predictions), stack(tables)]))
        parts += sample_parts(predictions)
    elif by_class:
        parts.append(columns(by_class))
    sentences = ["All figures are those of the trained network before its export."]
    if run.score_interval is not None:
        sentences.append(
            f"The {CONFIDENCE_INTERVAL} of the accuracy (Wilson's score interval) says how far it "
            "could differ on other samples of the same kind. It does not include the variation "
            "between trainings with other seeds."
        )
    return [section("Results on the test samples", *parts, explained(" ".join(sentences)))]


def training_section(run: Run) -> list[Section]:
    """The loss of the architecture's training and its curve; nothing before the training."""
    losses, curve = run.series("train", "loss", "training"), _learning_curve(run)
    if not losses.x:
        return []
    chart = line_figure(
        "Training loss", [losses], "loss",
        "The task's loss, including label smoothing and auxiliary head if they are configured.",
    )  # fmt: skip
    known = [
        ("Epochs", count(number_at(run.metrics, "epochs"))),
        ("Training time", f"{number(number_at(run.metrics, 'seconds'), 3)} s"),
    ]
    shown = [facts(known)] if run.metrics else []
    notes = [explained(CURVE)] if curve else []
    return [section("Training", *shown, columns([chart, *curve]), *notes)]


def _learning_curve(run: Run) -> list[Html]:
    """The score on training and test samples over the steps; nothing in runs of old versions."""
    series = [
        Series(line.label, line.x, [100 * value for value in line.y])
        for line in (
            run.series("train", "train_score", "training samples"),
            run.series("train", "test_score", "test samples"),
        )
    ]
    if not all(line.x for line in series):
        return []
    record = next(r for r in reversed(run.events("train")) if "test_score" in r)
    sizes = [count(number_at(record, f"{name}_samples")) for name in ("train", "test")]
    caption = (
        f"{sentence_case(run.metric_in_words)} during the training, on {sizes[0]} random training "
        f"samples and {sizes[1]} random test samples. A growing distance is overfitting."
    )
    metric = f"{run.metric_in_words} (%)"
    return [line_figure("Learning curve", series, metric, caption)]


def _metric_facts(run: Run) -> list[tuple[str, str]]:
    """Names and values of all metrics of the test set, beginning with the score.

    The name states where a metric is the mean over the classes.
    """
    metrics, by_class = run.metrics, objects_at(run.metrics, "per_class")
    before_export = replace(run, check={})
    rest = [key for key in metrics if key != run.metric and key not in NOT_METRICS]
    known = []
    for key in (run.metric, *rest):
        is_mean = bool(by_class) and key in by_class[0]
        name = f"Mean {in_words(key)}" if is_mean else sentence_case(in_words(key))
        value = number_at(metrics, key)
        is_share = key == run.metric or key in SHARES or key.endswith("accuracy")
        words = percent(value) if is_share else number(value)
        if key == "accuracy":
            words = before_export.score_in_words(f"{CI} ")
        known.append((name, words))
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
            *(text(percent(number_at(record, key), 1)) for key in shares),
            text(count(number_at(record, "n"))),
        ]
        for record in sorted(classes, key=lambda c: number_at(c, first) or 0.0)
    ]
    counted = "pixels" if "iou" in shares else "samples"
    header = ("class", *map(in_words, shares), counted)
    title = "Metrics by class"
    return [figure(title, "The weakest class comes first.", first_rows(title, header, rows))]
