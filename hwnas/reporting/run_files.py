"""The files of a run as the reports read them.

Any stage may not have run yet, so missing files are empty, and values of an unexpected type count
as missing. Damaged files are errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.budget.speed import MachineSpeed
from hwnas.errors import InputError
from hwnas.reporting.formatting import in_words, milliseconds, number, percent
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.choices import Choice
from hwnas.tasks.proportions import wilson_interval

SCHEMA = 1
MAX_NUMBER = 10**18
"""Numbers of this magnitude and above count as missing, since no chart can show them."""


@dataclass(frozen=True)
class Series:
    """A labelled line of a chart: steps x (n,) and values y (n,)."""

    label: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Interval:
    """A measured latency with its 95 % confidence interval, in milliseconds."""

    value_ms: float
    low_ms: float
    high_ms: float

    def in_words(self, name: str = "") -> str:
        """The latency and its interval: `0.42 ms (0.41 to 0.43)`.

        Args:
            name: written before the interval, for places where no heading names it.
        """
        ends = f"{number(self.low_ms)} to {number(self.high_ms)}"
        return f"{milliseconds(self.value_ms)} ({name}{ends})"


@dataclass(frozen=True)
class Run:
    """The contents of a run's files; empty where a stage has not written its file yet.

    Attributes:
        name: name of the folder.
        config: text of the configuration file.
        environment, architecture, metrics, check, latency_table, operator_shares, variants,
        controls, explanation, diagnosis, formats: contents of the JSON files with these names.
        history: records of the history file.
    """

    name: str
    config: str
    environment: dict[str, Any]
    architecture: dict[str, Any]
    metrics: dict[str, Any]
    check: dict[str, Any]
    latency_table: dict[str, Any]
    operator_shares: dict[str, Any]
    variants: dict[str, Any]
    controls: dict[str, Any]
    explanation: dict[str, Any]
    diagnosis: dict[str, Any]
    formats: dict[str, Any]
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: RunFolder) -> Run:
        """Read a run's files.

        Raises:
            InputError: when the folder holds no run, or a file is damaged or has another schema.
        """
        folder.require(folder.config)
        try:
            config = folder.config.read_text(errors="replace")
        except OSError as error:
            raise InputError(
                "cannot be read", where=str(folder.config), actual=error.strerror or error
            ) from None
        return cls(
            name=folder.path.resolve().name,
            config=config,
            environment=read_document(folder, folder.environment),
            architecture=read_document(folder, folder.architecture),
            metrics=read_document(folder, folder.metrics),
            check=read_document(folder, folder.check),
            latency_table=read_document(folder, folder.latency_table),
            operator_shares=read_document(folder, folder.operator_shares),
            variants=read_document(folder, folder.variants_document),
            controls=read_document(folder, folder.controls_document),
            explanation=read_document(folder, folder.explanation),
            diagnosis=read_document(folder, folder.diagnosis),
            formats=read_document(folder, folder.formats),
            history=folder.read_history(),
        )

    def events(self, event: str) -> list[dict[str, Any]]:
        """The records of the history that belong to one kind of event."""
        return [record for record in self.history if record["event"] == event]

    def series(self, event: str, key: str, label: str) -> Series:
        """A value over the steps of an event; records without the value are skipped.

        Args:
            event: kind of the records, for example `search`.
            key: name of the value in the records.
            label: name of the series.
        """
        pairs = [(number_at(r, "step"), number_at(r, key)) for r in self.events(event)]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        return Series(label, [x for x, _ in points], [y for _, y in points])

    def trajectory(self, choices: tuple[Choice, ...]) -> tuple[list[float], np.ndarray]:
        """The probabilities of all options over the steps of the search.

        Records that do not match the choices are skipped.

        Args:
            choices: choices of the run's search space.

        Returns:
            Steps (n,), and probabilities (n, choices, max_options), which sum to 1 over the last
            axis and are 0 beyond a choice's last option.
        """
        most = max(len(choice.options) for choice in choices)
        steps, tables = [], []
        for record in self.events("search"):
            step, rows = number_at(record, "step"), record.get("probabilities")
            if step is None or not isinstance(rows, list) or len(rows) != len(choices):
                continue
            table = np.zeros((len(choices), most))
            for place, (row, choice) in enumerate(zip(rows, choices, strict=True)):
                if isinstance(row, list) and len(row) == len(choice.options):
                    table[place, : len(row)] = [_probability(value) for value in row]
            sums = table.sum(axis=1, keepdims=True)
            if (sums > 0).all():
                steps.append(step)
                tables.append(table / sums)
        return steps, np.array(tables).reshape(-1, len(choices), most)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration as tables; empty when it is not valid TOML."""
        try:
            return tomllib.loads(self.config)
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def device(self) -> str | None:
        """The processor that the model is measured on."""
        stated = text_at(self.latency_table, "device", "device")
        return stated or text_at(self.environment, "device")

    @property
    def verdict(self) -> str | None:
        """`pass`, `fail` or `inconclusive`; None before the check."""
        return text_at(self.check, "verdict")

    @property
    def warnings(self) -> list[str]:
        """What the check warns of, a sentence each."""
        found = value_at(self.check, "warnings")
        return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []

    @property
    def gates(self) -> list[dict[str, Any]]:
        """The gates of the check, each with name, status, value and limit."""
        return objects_at(self.check, "gates")

    @property
    def budget_ms(self) -> float | None:
        """The latency budget of the check, or that of the search before the check."""
        events = self.events("budget")
        searched = number_at(events[-1], "budget_ms") if events else None
        return _first_known(number_at(self.check, "budget_ms"), searched)

    @property
    def predicted_ms(self) -> float | None:
        """Predicted latency of the found architecture's network."""
        return _first_known(
            number_at(self.check, "predicted_ms"), number_at(self.architecture, "predicted_ms")
        )

    @property
    def measured(self) -> Interval | None:
        """Latency of the exported model in the check, or in the search before the check."""
        if self.check:
            return interval_at(self.check)
        choices = self.architecture.get("choices")
        for record in reversed(self.events("measurement")):
            if choices is not None and record.get("choices") == choices:
                return interval_at(record)
        return None

    @property
    def speed(self) -> MachineSpeed | None:
        """How fast the machine was in the check; None if that is not known."""
        reference_ms = number_at(self.check, "measured", "speed", "reference_ms")
        name = text_at(self.check, "measured", "speed", "reference")
        if name is None or reference_ms is None or reference_ms <= 0:
            return None
        recorded_ms = number_at(self.check, "measured", "speed", "recorded_ms")
        is_known = recorded_ms is not None and recorded_ms > 0
        return MachineSpeed(name, reference_ms, recorded_ms if is_known else None)

    @property
    def metric(self) -> str:
        """Key of the metric that networks are compared by."""
        found = text_at(self.check, "metric") or text_at(self.metrics, "metric")
        return found or "accuracy"

    @property
    def score(self) -> float | None:
        """Score, 0 to 1, of the exported model, or of the trained network before the check."""
        return _first_known(
            number_at(self.check, self.metric, "onnx"), number_at(self.metrics, self.metric)
        )

    @property
    def test_samples(self) -> int | None:
        """Number of test samples that the score was computed on."""
        by_class = [number_at(one, "n") for one in objects_at(self.metrics, "per_class")]
        counted = sum(n for n in by_class if n is not None)
        found = _first_known(number_at(self.check, self.metric, "n"), counted or None)
        return None if found is None or found < 1 else int(found)

    @property
    def score_interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the accuracy, 0 to 1; None for other metrics.

        Only the accuracy is a share of independent samples.
        """
        score, samples = self.score, self.test_samples
        if self.metric != "accuracy" or score is None or samples is None or not 0 <= score <= 1:
            return None
        return wilson_interval(score, samples)

    def score_in_words(self, name: str = "") -> str:
        """The score, with its interval if there is one: `87.3 % (85.1 to 89.2)`.

        Args:
            name: written before the interval, for places where no heading names it.
        """
        if self.score_interval is None:
            return percent(self.score)
        low, high = (number(round(100 * end, 1)) for end in self.score_interval)
        return f"{percent(self.score)} ({name}{low} to {high})"

    @property
    def metric_in_words(self) -> str:
        """Readable name of the metric."""
        return in_words(self.metric)


def read_document(folder: RunFolder, path: Path) -> dict[str, Any]:
    """The contents of a JSON file; empty when it does not exist yet."""
    if not path.is_file():
        return {}
    document = folder.read_json(path)
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise InputError("unknown schema version", where=str(path), expected=SCHEMA, actual=schema)
    return document


def distinct_names(folders: Sequence[RunFolder]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to tell them apart.

    Raises:
        InputError: when a folder is listed twice.
    """
    paths = [folder.path.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError("the run is listed twice", where=str(path), mend="list it once")

    def name(path: Path) -> str:
        for length in range(1, len(path.parts) + 1):
            last = path.parts[-length:]
            if sum(other.parts[-length:] == last for other in paths) == 1:
                break
        return "/".join(last).lstrip("/")

    return [name(path) for path in paths]


def value_at(document: Any, *keys: str) -> Any:
    """The value under a path of keys in nested objects, or None if there is none."""
    for key in keys:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def number_at(document: Any, *keys: str) -> float | None:
    """The number under a path of keys, or None if there is none below `MAX_NUMBER`."""
    value = value_at(document, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The comparison is false for NaN, too.
    return float(value) if abs(value) < MAX_NUMBER else None


def text_at(document: Any, *keys: str) -> str | None:
    """The string under a path of keys, or None if there is none."""
    value = value_at(document, *keys)
    return value if isinstance(value, str) else None


def objects_at(document: Any, *keys: str) -> list[dict[str, Any]]:
    """The objects in the list under a path of keys; empty if there is no such list."""
    value = value_at(document, *keys)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def interval_at(record: dict[str, Any]) -> Interval | None:
    """The latency under the key `measured`, or None if it is incomplete."""
    value_ms, low_ms, high_ms = (
        number_at(record, "measured", key) for key in ("value_ms", "ci_low_ms", "ci_high_ms")
    )
    if value_ms is None or low_ms is None or high_ms is None:
        return None
    return Interval(value_ms, low_ms, high_ms)


def _probability(value: Any) -> float:
    """A number from 0 to 1; 0 for anything else."""
    known = isinstance(value, int | float) and 0 <= value <= 1
    return float(value) if known else 0.0


def _first_known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
