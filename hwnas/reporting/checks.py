"""The section of a report on the check of the exported model: gates, scores, predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.reporting.formatting import (
    DASH,
    UNKNOWN,
    count,
    decibels,
    gate_value,
    in_words,
    kibibytes,
    milliseconds,
    number,
    percent,
    sentence_case,
)
from hwnas.reporting.html import (
    Html,
    Section,
    explained,
    facts,
    paragraph,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.latencies import audit_sentence
from hwnas.reporting.run_files import Run, number_at, objects_at, text_at, value_at

TITLE = "Check of the exported model"
GATES: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "budget": ("measured latency: at most the budget", milliseconds),
    "budget of a device": ("predicted latency: at most the device's budget", milliseconds),
    "memory": ("peak host memory of a session in MB: at most the limit", number),
    "energy": ("energy per inference in mJ: at most the limit", number),
    "placement": ("operators that the runtime's first provider runs: at least the limit", number),
    "budget_confidence": (
        "predicted probability that the latency is within the budget: at least the limit",
        percent,
    ),
    "parity": (
        "largest absolute difference from the outputs {reference}: within the tolerance",
        number,
    ),
    "sqnr": ("signal-to-quantisation-noise ratio of the outputs: at least the limit", decibels),
    "agreement": (
        "share of samples with the same predicted class as {reference}: at least the limit",
        percent,
    ),
    "score_drop": ("{metric} lost by the export: at most the limit", percent),
    "score": ("{metric} on the test samples: at least the limit", percent),
    "score_above_chance": (
        "{metric} with its 95 % interval: above that of the best answer that ignores the input",
        percent,
    ),
    "shapes": ("computed output shapes: the same as the declared ones", number),
    "dynamic_batch": (
        "batch sizes of a model that declares a dynamic one: all of them run (value: the largest)",
        number,
    ),
    "finite": ("output values that are NaN or infinite: at most the limit", number),
    "load": ("time to create a session in a new process: at most the limit", milliseconds),
    "first_inference": ("first inference of a new process: at most the limit", milliseconds),
    "ram_kb": ("working memory on a microcontroller in kB: at most the limit", number),
    "flash_kb": ("flash on a microcontroller in kB: at most the limit", number),
    "macs": ("multiply-accumulates of one inference: at most the limit", count),
    "int8_program_drop": ("loss of the score of the int8 program: at most the limit", percent),
    "serving_errors": ("failed requests under load: at most the limit", number),
    "memory_growth": ("growth of the session's memory in MB under load: at most the limit", number),
}
"""The requirement of each gate, and how its value and limit are formatted."""
REFERENCES = {
    "": "before the export",
    "unoptimised": "without the runtime's graph optimisation",
    "float32": "of the same model in float32",
}
"""What outputs are compared with, by the suffix of the gate's name; others name a runtime."""


def check_section(run: Run) -> list[Section]:
    """Gates, scores before and after the export, and prediction against measurement.

    Nothing before the check.
    """
    if not run.check:
        return []
    header = ("gate", "status", "value", "limit", "requirement")
    rows = [_gate_row(gate, run.metric) for gate in run.gates]
    return [
        section(
            TITLE,
            table("Gates", header, rows, "gates stacked"),
            facts(_key_figures(run)),
            paragraph(_prediction_sentence(run) + audit_sentence(run)),
            explained(_measurement_sentence(run)),
            *([] if run.speed is None else [paragraph(_sentence(run.speed.in_words()))]),
        )
    ]


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _key_figures(run: Run) -> list[tuple[str, str]]:
    check, metric = run.check, run.metric
    score = sentence_case(run.metric_in_words)
    error = number_at(check, "parity", "max_abs_error")
    # Without any error the ratio is infinite, which JSON cannot express.
    sqnr = "no error" if error == 0 else decibels(number_at(check, "parity", "sqnr_db"))
    known = [
        (f"{score} before export", percent(number_at(check, metric, "torch"))),
        (f"{score} after export", percent(number_at(check, metric, "onnx"))),
        ("Test samples", count(number_at(check, metric, "n"))),
        ("SQNR of the outputs", sqnr),
        ("Peak memory of a session in MB", number(number_at(check, "memory_mb"))),
        ("Energy per inference in mJ", number(number_at(check, "energy", "mj"))),
        ("Input", _raw_input(run)),
        ("File size", kibibytes(number_at(check, "model", "size_bytes"))),
        ("ONNX operator set", number(number_at(check, "model", "opset"))),
    ]
    return [(name, value) for name, value in known if value != UNKNOWN]


def _raw_input(run: Run) -> str:
    """What a model reads that normalises raw inputs itself."""
    inputs = objects_at(run.check, "model", "inputs")
    if value_at(run.settings, "export", "preprocess") is not True or not inputs:
        return UNKNOWN
    return f"raw {text_at(inputs[0], 'dtype') or 'inputs'}, normalised by the model"


def _gate_row(gate: dict[str, Any], metric: str) -> list[Html]:
    """Name, status, value, limit and requirement of a gate; a dash for what does not apply."""
    name = str(gate.get("name"))
    # A suffix names the device of a further budget, or the reference of a further comparison. The
    # gates of the score are named after its metric.
    prefix, _, suffix = name.partition(": ")
    kind = "budget of a device" if prefix == "budget" and suffix else prefix
    if kind == metric or kind.startswith(f"{metric}_"):
        kind = "score" + kind.removeprefix(metric)
    requirement, formatted = GATES.get(kind, ("", number))
    value, limit = (number_at(gate, key) for key in ("value", "limit"))
    if kind == "score" and not limit and value is not None:
        requirement, limit = "{metric} on the test samples: no minimum is configured", None
    if kind == "budget" and limit is None and value is not None:
        requirement = "measured latency: no budget is configured"
    reference = REFERENCES.get(suffix, f"on {suffix}")
    return [
        text(name),
        status(text_at(gate, "status")),
        *(text(shown) for shown in _value_and_limit(value, limit, formatted)),
        text(requirement.format(metric=in_words(metric), reference=reference)),
    ]


def _value_and_limit(
    value: float | None, limit: float | None, formatted: Callable[[float | None], str]
) -> tuple[str, str]:
    """Value and limit of a gate as texts, which differ where the numbers do."""
    texts = tuple(DASH if v is None else formatted(v) for v in (value, limit))
    if value != limit and texts[0] == texts[1]:
        return gate_value({"value": value, "limit": limit}), number(limit)
    return texts[0], texts[1]


def _prediction_sentence(run: Run) -> str:
    measured, predicted_ms = run.measured, run.predicted_ms
    if measured is None or predicted_ms is None or measured.value_ms <= 0:
        return ""
    if predicted_ms <= 0:
        return "The predicted latency is not positive, so it cannot be compared. "
    difference = percent(abs(measured.value_ms / predicted_ms - 1))
    side = "higher" if measured.value_ms > predicted_ms else "lower"
    return f"The measured latency is {difference} {side} than the latency table predicts. "


def _sessions_in_words(measured: Any) -> str:
    """How many sessions there were, and how much they differ; nothing for one session."""
    sessions, spread = value_at(measured, "sessions_ms"), number_at(measured, "spread")
    if not isinstance(sessions, list) or len(sessions) < 2 or spread is None:
        return ""
    return (
        f", and the median of {len(sessions)} sessions, which differ by a standard deviation of "
        f"{percent(spread)}; the interval contains that "
    )


def _measurement_sentence(run: Run) -> str:
    measured = run.check.get("measured")
    names = {"p10": "the 10th percentile", "median": "the median"}
    statistic = names.get(text_at(measured, "statistic") or "", "a statistic")
    return (
        f"The measured latency is {statistic} of the medians of "
        f"{count(number_at(measured, 'rounds'))} rounds{_sessions_in_words(measured)} "
        f"({text_at(measured, 'runtime') or 'runtime not known'}; the measurement's status is "
        f"{text_at(measured, 'status') or 'not known'})."
    )
