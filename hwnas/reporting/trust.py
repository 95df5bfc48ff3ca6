"""The chapter of a report on how far the trained network's predictions can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.reporting.explanation_charts import ReliabilityBin, reliability_chart
from hwnas.reporting.figures import first_rows
from hwnas.reporting.formatting import CI, DASH, count, in_words, number, percent
from hwnas.reporting.html import (
    Html,
    Section,
    bar,
    columns,
    explained,
    figure,
    gallery,
    heading,
    paragraph,
    picture,
    section,
    stack,
    table,
    text,
)
from hwnas.reporting.predictions import MAX_SAMPLES, MAX_SIDE, Predictions, outcome, png
from hwnas.reporting.run_files import Run, number_at, objects_at, text_at, value_at

TITLE = "How far can it be trusted?"
CALIBRATION = (
    "Samples are sorted into 15 bins by the probability of their predicted class. A network that "
    "is calibrated is right as often as it says: its points are on the dashed diagonal. The size "
    "of a point stands for the number of its samples, the bars are 95 % confidence intervals. The "
    "expected calibration error is the mean distance from the diagonal over all samples (Guo et "
    "al., ICML 2017); with few samples it is above 0 for a perfectly calibrated network too. What "
    "such a network would have is stated as `by chance`, with the 95th percentile."
)
MAPS = (
    "Colours show what speaks for the predicted class (blue) and against it (orange). Integrated "
    "gradients follow the gradient of its logit from the mean of the training samples to the image "
    "(Sundararajan et al., ICML 2017); they sum to the difference of the logits, here to within "
    "{residual}. Occlusion shows how much the logit falls when a window is covered by the mean "
    "(Zeiler & Fergus, ECCV 2014). Each map is scaled by its own largest value. They show what the "
    "network used, not whether that is right: look for a class that is recognised by its "
    "background."
)
ROBUSTNESS = (
    "The same {samples} test samples, disturbed. Strengths are shares of the range of values, or "
    "in pixels, as stated. Nothing was trained for it; augmentation of the same kind would help."
)
BLUE, ORANGE = (47, 127, 196), (201, 113, 28)


@dataclass(frozen=True)
class AttributionMaps:
    """The contents of `attributions.npz`.

    Attributes:
        places: (M,), indices into the stored samples of `predictions.npz`.
        gradients, occlusion: (M, H, W).
    """

    places: np.ndarray
    gradients: np.ndarray
    occlusion: np.ndarray

    @classmethod
    def read(cls, path: Path, predictions: Predictions | None) -> AttributionMaps | None:
        """Read the file; None if there is none, or no image that it belongs to.

        Raises:
            InputError: when the file is damaged.
        """
        if not path.is_file() or predictions is None or predictions.images is None:
            return None
        arrays = read_npz_arrays(path)
        if {"places", "gradients", "occlusion"} - arrays.keys():
            raise InputError("missing array", where=str(path))
        found = cls(arrays["places"], arrays["gradients"], arrays["occlusion"])
        if not found._is_consistent(len(predictions.images)):
            raise InputError("the arrays do not belong together", where=str(path))
        return found

    def _is_consistent(self, stored: int) -> bool:
        places, maps = self.places, (self.gradients, self.occlusion)
        return (
            places.ndim == 1
            and places.dtype.kind in "iu"
            and len(places) <= MAX_SAMPLES
            and (len(places) == 0 or 0 <= int(places.min()) <= int(places.max()) < stored)
            and all(m.ndim == 3 and m.dtype.kind == "f" and len(m) == len(places) for m in maps)
            and all(min(m.shape[1:]) > 0 and max(m.shape[1:]) <= 64 * MAX_SIDE for m in maps)
            and all(bool(np.isfinite(m).all()) for m in maps)
        )


def trust_section(
    run: Run, predictions: Predictions | None, maps: AttributionMaps | None
) -> list[Section]:
    """Calibration, accuracy by class, robustness, and where the network looks.

    Nothing before `hwnas explain`.

    Args:
        run: the run.
        predictions: predicted classes of the test samples, where they are stored.
        maps: attributions of images, where they are stored.
    """
    parts = [
        *_calibration(run),
        *_robustness(run),
        *_maps(run, predictions, maps),
        *_columns(run),
        *_words(run),
    ]
    return [section(TITLE, *parts)] if parts else []


def calibration_sentence(document: Any) -> str | None:
    """The calibration in words; None for other tasks than classification.

    Args:
        document: the content of `explanation.json`.
    """
    found = value_at(document, "calibration")
    error, over = number_at(found, "expected_error"), number_at(found, "overconfidence")
    chance = value_at(found, "by_chance")
    if error is None or over is None or not isinstance(chance, list) or len(chance) != 2:
        return None
    mean, high = (number_at({"value": value}, "value") for value in chance)
    is_fine = high is not None and error <= high
    tendency = "too sure of itself" if over > 0 else "too cautious"
    verdict = (
        "which a calibrated network would reach by chance too"
        if is_fine
        else f"the network is {tendency} by {percent(abs(over), 1)} on average"
    )
    return (
        f"The expected calibration error is {percent(error, 1)} (by chance {percent(mean, 1)}, "
        f"up to {percent(high, 1)}): {verdict}."
    )


def _calibration(run: Run) -> list[Html]:
    """The reliability diagram and the accuracy by class; nothing for other tasks."""
    sentence = calibration_sentence(run.explanation)
    bins = [
        ReliabilityBin(**known)
        for one in objects_at(run.explanation, "calibration", "bins")
        if (known := _shares(one)) is not None
    ]
    if sentence is None or not bins:
        return []
    title = "Reliability diagram"
    caption = "Accuracy in percent against the predicted probability of the class."
    drawing = figure(title, caption, reliability_chart(title, bins))
    return [
        heading("Are its probabilities right?"),
        paragraph(sentence),
        columns([drawing, stack(_by_class(run))]),
        explained(CALIBRATION),
    ]


def _shares(one: dict[str, Any]) -> dict[str, float] | None:
    keys = ("samples", "confidence", "accuracy", "low", "high")
    found = {key: value for key in keys if (value := number_at(one, key)) is not None}
    is_share = all(0 <= value <= 1 for key, value in found.items() if key != "samples")
    return found if len(found) == len(keys) and is_share and found["samples"] > 0 else None


def _by_class(run: Run) -> list[Html]:
    """The accuracy of each class with its interval, the lowest first."""
    classes = objects_at(run.explanation, "by_class")
    if not classes:
        return []
    rows = [
        [
            text(one.get("class")),
            text(_with_interval(one, "accuracy")),
            text(count(number_at(one, "samples"))),
        ]
        for one in sorted(classes, key=lambda c: number_at(c, "accuracy") or 0.0)
    ]
    title = "Accuracy by class"
    shown = first_rows(title, ("class", f"accuracy ({CI})", "samples"), rows)
    return [figure(title, "The weakest class comes first.", shown)]


def _with_interval(one: dict[str, Any], key: str) -> str:
    value, low, high = (number_at(one, name) for name in (key, "low", "high"))
    if value is None or low is None or high is None:
        return percent(value, 1)
    return f"{percent(value, 1)} ({number(round(100 * low, 1))} to {number(round(100 * high, 1))})"


def _robustness(run: Run) -> list[Html]:
    """The score under each disturbance as bars; nothing without it."""
    document = value_at(run.explanation, "robustness")
    rows_of = objects_at(document, "rows")
    clean, metric = value_at(document, "clean"), text_at(document, "metric") or run.metric
    if not rows_of or not isinstance(clean, dict):
        return []
    entries = [("as they are", clean), *((_strength(one), one) for one in rows_of)]
    whole = number_at(clean, "score") or 1.0
    rows = []
    for name, one in entries:
        score = number_at(one, "score")
        lost = DASH if score is None or one is clean else f"{100 * (score - whole):+.1f}"
        share = bar(score if score is not None and 0 <= score <= 1 else 0.0)
        rows.append([text(name), share, text(_with_interval(one, "score")), text(lost)])
    title = "Robustness"
    header = ("samples", "", in_words(metric), "difference in points")
    samples = count(number_at(document, "samples"))
    return [
        heading("How much does it bear?"),
        table(title, header, rows, "bars stacked"),
        explained(ROBUSTNESS.format(samples=samples)),
    ]


def _strength(one: dict[str, Any]) -> str:
    return f"{one.get('kind')}, {number(number_at(one, 'strength'))} {one.get('unit')}"


def _maps(run: Run, predictions: Predictions | None, maps: AttributionMaps | None) -> list[Html]:
    """The explained images with both maps beside each; nothing without them."""
    if maps is None or predictions is None or predictions.images is None or not len(maps.places):
        return []
    residual = number_at(run.explanation, "attributions", "residual")
    items = []
    for row, place in enumerate(maps.places):
        image = predictions.images[place]
        words = outcome(predictions, int(place))
        _, height, width = image.shape
        items.append((picture(png(image), words, width, height), words))
        for name, values in (("gradients", maps.gradients), ("occlusion", maps.occlusion)):
            drawing = png(_coloured(values[row], (width, height), image))
            items.append((picture(drawing, f"{words}: {name}", width, height), name))
    title = "Where the network looks"
    caption = "Samples that are predicted correctly, then mistakes, each with its two maps."
    explanation = MAPS.format(residual=percent(residual, 1))
    return [
        heading(title),
        figure("Attributions", caption, gallery(items), wide=True),
        explained(explanation),
    ]


def _coloured(values: np.ndarray, size: tuple[int, int], image: np.ndarray) -> np.ndarray:
    """A map over the grey image, blue where positive and orange where negative.

    Args:
        values: (H, W).
        size: width and height of the drawing.
        image: (C, H, W) uint8.

    Returns:
        (3, H, W) uint8.
    """
    scaled = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    weights = np.asarray(scaled)
    largest = float(np.abs(weights).max()) or 1.0
    strength = np.abs(weights / largest)[None] ** 0.7
    colours = np.where(weights[None] > 0, *(np.array(c)[:, None, None] for c in (BLUE, ORANGE)))
    grey = 128 + 0.45 * (image.astype(np.float32).mean(axis=0, keepdims=True) - 128)
    mixed: np.ndarray = np.rint((1 - strength) * grey + strength * colours).astype(np.uint8)
    return mixed


def _columns(run: Run) -> list[Html]:
    """The influence of each column of a table as bars; nothing for other inputs."""
    found = objects_at(run.explanation, "attributions", "columns")
    known = [
        (str(one.get("column")), a, b)
        for one in found
        if (a := number_at(one, "gradients")) is not None
        and (b := number_at(one, "occlusion")) is not None
    ]
    if not known:
        return []
    largest = max(a for _, a, _ in known) or 1.0
    rows = [
        [text(name), bar(a / largest), text(number(a, 3)), text(number(b, 3))]
        for name, a, b in sorted(known, key=lambda item: -item[1])
    ]
    title = "Which columns it reads"
    header = ("column", "", "integrated gradients", "occlusion")
    sentence = (
        "Mean influence on the logit of the predicted class over test samples, in logits, against "
        "the mean of the training samples."
    )
    return [heading(title), paragraph(sentence), first_rows(title, header, rows, "bars stacked")]


def _words(run: Run) -> list[Html]:
    """The words of the explained texts by their influence; nothing for other inputs."""
    texts = objects_at(run.explanation, "attributions", "texts")
    if not texts:
        return []
    rows = []
    for one in texts:
        words = objects_at(one, "words")
        target, predicted = str(one.get("class")), str(one.get("predicted"))
        name = target if target == predicted else f"{target} \u2192 {predicted}"
        rows.append([text(name), text(_strongest(words, 1)), text(_strongest(words, -1))])
    title = "Which words it reads"
    header = ("text", "words for the predicted class", "words against it")
    sentence = (
        "Integrated gradients of the words in logits, against the unknown word, the strongest "
        "first."
    )
    return [heading(title), paragraph(sentence), table(title, header, rows, "stacked")]


def _strongest(words: Sequence[dict[str, Any]], sign: int) -> str:
    """The words of one sign with the largest influence."""
    known = [
        (str(one.get("word")), value)
        for one in words
        if (value := number_at(one, "gradients")) is not None and sign * value > 0
    ]
    known.sort(key=lambda item: -abs(item[1]))
    return ", ".join(f"{word} {value:+.2f}" for word, value in known[:6]) or DASH
