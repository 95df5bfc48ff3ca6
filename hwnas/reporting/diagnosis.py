"""The chapter of a report on what theory says of the trained network and of the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas.reporting.explanation import notes_in
from hwnas.reporting.figures import line_figure
from hwnas.reporting.formatting import count, number, percent
from hwnas.reporting.html import (
    Html,
    Section,
    explained,
    heading,
    paragraph,
    section,
    table,
    text,
)
from hwnas.reporting.run_files import Run, Series, number_at, objects_at, text_at, value_at

TITLE = "What theory says"
ABOUT = (
    "Each figure is a measure from a paper, named where it is computed (`hwnas.diagnosis`). None "
    "of them is a property that a good network must have, and their units belong to this network: "
    "compare them with those of networks of the same space and data. The project's pages have how "
    "well each measure orders trained networks by their test error; several do not at all."
)


@dataclass(frozen=True)
class Measure:
    """A row of the chapter.

    Attributes:
        name: what is measured, with its unit.
        value: the figure in words.
        meaning: what it can and cannot say.
    """

    name: str
    value: str
    meaning: str


def diagnosis_section(run: Run) -> list[Section]:
    """All measures with what they say, and the eigenvalue along the search.

    Nothing before `hwnas diagnose`.
    """
    groups = measures(run.diagnosis)
    if not groups:
        return []
    parts: list[Html] = []
    for title, rows in groups:
        cells = [[text(row.name), text(row.value), text(row.meaning)] for row in rows]
        header = ("measure", "value", "what it says")
        parts += [heading(title), table(title, header, cells, "stacked")]
    parts += _along_the_search(run)
    parts += [paragraph(note) for note in notes_in(run.diagnosis)]
    return [section(TITLE, *parts, explained(ABOUT))]


def measures(document: Any) -> list[tuple[str, list[Measure]]]:
    """The measures of a `diagnosis.json` by group; groups without a figure are left out."""
    groups = [
        ("Lipschitz bounds", _lipschitz(value_at(document, "lipschitz"))),
        ("Curvature of the loss", _curvature(value_at(document, "curvature"))),
        ("Convergence", _convergence(value_at(document, "convergence"))),
        ("Generalisation", _generalisation(value_at(document, "generalisation"))),
        ("The search", _search(value_at(document, "search"))),
    ]
    return [(title, rows) for title, rows in groups if rows]


def _lipschitz(found: Any) -> list[Measure]:
    lower, median, upper = (number_at(found, key) for key in ("lower", "median", "upper"))
    if lower is None:
        return []
    rows = [
        Measure(
            "lower bound, logits for each unit of the input",
            f"{number(lower, 3)} (median of the samples {number(median, 3)})",
            f"The largest norm of the Jacobian at {count(number_at(found, 'samples'))} samples: so "
            "far can a small change of an input move the logits. Not the worst case.",
        )
    ]
    if upper is None:
        reason = text_at(found, "unbounded") or "not known"
        rows.append(Measure("upper bound", "none", f"There is none: {reason}."))
        return rows
    largest = objects_at(found, "largest_norms")
    widest = (
        f" The largest norm, {number(number_at(largest[0], 'norm'), 3)}, is that of "
        f"{text_at(largest[0], 'layers')}."
        if largest
        else ""
    )
    gap = number(upper / lower, 2) if lower else "not known"
    rows.append(
        Measure(
            "upper bound",
            f"{number(upper, 3)}, {gap} times the lower bound",
            "The product of the norms of all linear maps along the graph. No change of an input "
            "moves the logits further; the larger the gap, the less it says." + widest,
        )
    )
    return rows


def _curvature(found: Any) -> list[Measure]:
    values, errors = value_at(found, "eigenvalues"), value_at(found, "errors")
    if not isinstance(values, list) or not isinstance(errors, list):
        return []
    pairs = [
        f"{number(value, 3)} \u00b1 {number(error, 1)}"
        for value, error in zip(values, errors, strict=False)
        if isinstance(value, int | float) and isinstance(error, int | float)
    ]
    trace, spread = number_at(found, "trace"), number_at(found, "trace_error")
    return [
        Measure(
            "largest eigenvalues of the Hessian",
            "; ".join(pairs),
            "Curvature in the sharpest directions, with bounds of their error. Steps with a "
            "learning rate above 2 divided by the largest one climb out. Rescaling a layer in "
            "front of a batch norm changes them and not the network.",
        ),
        Measure(
            "trace of the Hessian",
            f"{number(trace, 3)} \u00b1 {number(spread, 1)}",
            "The sum of all curvatures, with its standard error.",
        ),
        Measure(
            f"sharpness within {number(number_at(found, 'radius'))}",
            number(number_at(found, "sharpness"), 3),
            "How much the loss grows at least if all weights together move so far in the worst "
            "direction found. Not invariant to rescaling either.",
        ),
    ]


def _convergence(found: Any) -> list[Measure]:
    rows = []
    norm, variance = number_at(found, "noise", "norm"), number_at(found, "noise", "variance")
    if norm is not None:
        spread = number(max(variance or 0.0, 0.0) ** 0.5, 3)
        rows.append(
            Measure(
                "length of the gradient",
                f"{number(norm, 3)}; that of a single sample varies by {spread}",
                "0 at a minimum. At the averaged weights, without augmentation and smoothing.",
            )
        )
        scale = number_at(found, "noise", "scale")
        size = count(number_at(found, "batch_size"))
        told = "not told from infinite" if scale is None else count(scale)
        rows.append(
            Measure(
                "noise scale, samples",
                told,
                f"Batches much smaller than this see mostly noise; training used {size}. It grows "
                "as the gradient vanishes.",
            )
        )
    rate = number_at(found, "effective_rate")
    if rate is not None:
        layers = count(number_at(found, "normalised_layers"))
        rows.append(
            Measure(
                "effective learning rate",
                number(rate, 3),
                f"Median over {layers} layers in front of batch norms: the rate at the start "
                f"({number(number_at(found, 'learning_rate'))}) divided by the squared length of "
                "the final weights. Only their direction counts.",
            )
        )
    slope = number_at(found, "trend", "slope")
    if slope is not None:
        has_ended = value_at(found, "trend", "has_ended") is True
        word = "had ended" if has_ended else "had not ended"
        error = number(number_at(found, "trend", "error"), 2)
        rows.append(
            Measure(
                "training",
                f"{word}: loss {number(slope, 2)} \u00b1 {error} a training",
                "The slope over the last fifth, with its standard error. A learning rate that "
                "falls to 0 ends any training: more epochs may still help.",
            )
        )
    return rows


def _generalisation(found: Any) -> list[Measure]:
    if number_at(found, "samples") is None:
        return []
    rows = [
        Measure(
            "margins of training samples, logits",
            _quantiles(value_at(found, "margins")),
            "The logit of the class minus the next one: 10th percentile, median, 90th. Large ones "
            "are safe only beside the size of the logits.",
        )
    ]
    if value_at(found, "input_margins"):
        rows.append(
            Measure(
                "distance to the decision boundary",
                _quantiles(value_at(found, "input_margins")),
                "Margin divided by the length of its gradient, in units of the normalised input: "
                "how far a sample is from being taken for another class, to first order.",
            )
        )
    for key, name, meaning in (
        ("path_norm", "path norm", "The root of the summed squared products of weights along all "
         "paths. Invariant to rescaling; grows with depth and width."),
        ("pac_bayes", "PAC-Bayes bound", "On the error beyond that of the training samples, by how "
         "much noise the weights bear. Above 1 it says nothing, which is usual."),
        ("sigma", "noise that the weights bear", "Standard deviation of Gaussian noise on all "
         "weights that costs 10 points of training accuracy."),
        ("head_rademacher", "Rademacher complexity of the head", "How well a linear head of this "
         "size fits random labels on the network's features. Leaves out how they were learned."),
    ):  # fmt: skip
        value = number_at(found, key)
        if value is not None:
            rows.append(Measure(name, number(value, 3), meaning))
    fit = number_at(found, "random_label_fit")
    if fit is not None:
        spread = percent(number_at(found, "random_label_noise"), 0)
        rows.append(
            Measure(
                "fit to random labels",
                f"{percent(fit, 0)} (chance varies by {spread})",
                "Correlation with random labels after a short training on them, a lower estimate "
                "of the Rademacher complexity. 100 %: the network can memorise.",
            )
        )
    return rows


def _quantiles(found: Any) -> str:
    low, median, high = (number_at(found, key) for key in ("low", "median", "high"))
    return f"{number(low, 3)}; {number(median, 3)}; {number(high, 3)}"


def _search(found: Any) -> list[Measure]:
    norm, error = number_at(found, "norm"), number_at(found, "relative_error")
    if norm is None:
        return []
    cosine, rate = number_at(found, "cosine"), number_at(found, "learning_rate")
    rows = [
        Measure(
            "length of the hypergradient",
            number(norm, 3),
            "Of the objective by the architecture's parameters, on one batch at the end of the "
            "search. Noise of the batch included.",
        ),
        Measure(
            "error of the first-order gradient",
            f"{percent(error, 1)} of the second-order one, cosine {number(cosine, 3)}",
            f"With the weights unrolled by one step at a learning rate of {number(rate)}. Both "
            "are approximations: the weights are never trained to the end.",
        ),
    ]
    eigenvalue = number_at(found, "eigenvalue")
    if eigenvalue is not None:
        rows.append(
            Measure(
                "dominant eigenvalue of the architecture's Hessian",
                number(eigenvalue, 3),
                "Where it grows during a search, the decoded network often loses what the mixture "
                "had (RobustDARTS). `search.max_growth` watches it and stops the search.",
            )
        )
    return rows


def _along_the_search(run: Run) -> list[Html]:
    """The dominant eigenvalue over the steps, where the search watched it."""
    series: Series = run.series("search", "eigenvalue", "eigenvalue")
    if not series.x:
        return []
    caption = "Of the validation loss's Hessian with respect to the architecture's parameters."
    return [line_figure("Dominant eigenvalue along the search", [series], "eigenvalue", caption)]
