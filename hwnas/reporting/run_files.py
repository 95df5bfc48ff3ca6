"""What a report shows of a run: its files read leniently, since any stage may not have run yet."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.reporting.html import in_words, milliseconds, number
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.choices import Choice

SCHEMA = 1
MAX_NUMBER = 10**18


@dataclass(frozen=True)
class Series:
    """Values over steps, (n,) each."""

    label: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Interval:
    """A measured latency with its 95 % interval, in milliseconds."""

    value_ms: float
    low_ms: float
    high_ms: float

    def in_words(self, name: str = "") -> str:
        """`0.42 ms (0.41 to 0.43)`, with the interval's name where no heading gives it."""
        ends = f"{number(self.low_ms)} to {number(self.high_ms)}"
        return f"{milliseconds(self.value_ms)} ({name}{ends})"


@dataclass(frozen=True)
class Run:
    """What the files of a run hold; empty where a stage has not written yet.

    Attributes:
        name: of the folder.
        config: text of the configuration.
        environment, architecture, metrics, check, latency_table, operator_shares, variants: the
            JSON files of these names.
        history: its records.
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
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: RunFolder) -> Run:
        """Read a run's files.

        Raises:
            InputError: when the folder is no run's, or a file is damaged or of another schema.
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
            environment=_read_document(folder, folder.environment),
            architecture=_read_document(folder, folder.architecture),
            metrics=_read_document(folder, folder.metrics),
            check=_read_document(folder, folder.check),
            latency_table=_read_document(folder, folder.latency_table),
            operator_shares=_read_document(folder, folder.operator_shares),
            variants=_read_document(folder, folder.variants_document),
            history=folder.read_history(),
        )

    def events(self, event: str) -> list[dict[str, Any]]:
        """The history's records of one event."""
        return [record for record in self.history if record["event"] == event]

    def series(self, event: str, key: str, label: str) -> Series:
        """A value over the steps of an event; records without it are left out."""
        pairs = [(number_at(r, "step"), number_at(r, key)) for r in self.events(event)]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        return Series(label, [x for x, _ in points], [y for _, y in points])

    def trajectory(self, choices: tuple[Choice, ...]) -> tuple[list[float], np.ndarray]:
        """The strategy's probabilities: steps (n,), and (n, choices, max_options).

        Records that do not fit the choices are left out; rows are zero where a choice has fewer
        options, and sum to 1.
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
                    table[place, : len(row)] = [_share(value) for value in row]
            sums = table.sum(axis=1, keepdims=True)
            if (sums > 0).all():
                steps.append(step)
                tables.append(table / sums)
        return steps, np.array(tables).reshape(-1, len(choices), most)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration; empty when it is no TOML."""
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
    def gates(self) -> list[dict[str, Any]]:
        """The gates of the check."""
        return objects_at(self.check, "gates")

    @property
    def budget_ms(self) -> float | None:
        """The budget that was checked, or else searched for."""
        events = self.events("budget")
        searched = number_at(events[-1], "budget_ms") if events else None
        return _first_known(number_at(self.check, "budget_ms"), searched)

    @property
    def predicted_ms(self) -> float | None:
        """Predicted latency of the architecture's network."""
        return _first_known(
            number_at(self.check, "predicted_ms"), number_at(self.architecture, "predicted_ms")
        )

    @property
    def measured(self) -> Interval | None:
        """Latency of the exported model by the check, or else when the search measured it."""
        if self.check:
            return interval_at(self.check)
        choices = self.architecture.get("choices")
        for record in reversed(self.events("measurement")):
            if choices is not None and record.get("choices") == choices:
                return interval_at(record)
        return None

    @property
    def metric(self) -> str:
        """Name of the score that networks are compared by."""
        found = text_at(self.check, "metric") or text_at(self.metrics, "metric")
        return found or "accuracy"

    @property
    def score(self) -> float | None:
        """Of the exported model, or else of the trained network; a share of 1."""
        return _first_known(
            number_at(self.check, self.metric, "onnx"), number_at(self.metrics, self.metric)
        )

    @property
    def metric_in_words(self) -> str:
        """The name of the score as a text."""
        return in_words(self.metric)


def _read_document(folder: RunFolder, path: Path) -> dict[str, Any]:
    """One of the JSON files; empty when its stage has not run yet."""
    if not path.is_file():
        return {}
    document = folder.read_json(path)
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise InputError("unknown schema", where=str(path), expected=SCHEMA, actual=schema)
    return document


def distinct_names(folders: Sequence[RunFolder]) -> list[str]:
    """The folders' names, with so many of their parents that no two are the same.

    Raises:
        InputError: when a folder is there twice.
    """
    paths = [folder.path.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError("the same run twice", where=str(path))

    def name(path: Path) -> str:
        for length in range(1, len(path.parts) + 1):
            last = path.parts[-length:]
            if sum(other.parts[-length:] == last for other in paths) == 1:
                break
        return "/".join(last).lstrip("/")

    return [name(path) for path in paths]


def value_at(document: Any, *keys: str) -> Any:
    """What nested objects hold under some keys, or None."""
    for key in keys:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def number_at(document: Any, *keys: str) -> float | None:
    """A number of a size that occurs, or None when there is no such thing."""
    value = value_at(document, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is not smaller; charts cannot show what is much larger.
    return float(value) if abs(value) < MAX_NUMBER else None


def _share(value: Any) -> float:
    """A number from 0 to 1, or 0."""
    known = isinstance(value, int | float) and 0 <= value <= 1
    return float(value) if known else 0.0


def text_at(document: Any, *keys: str) -> str | None:
    """A string, or None when there is no such thing."""
    value = value_at(document, *keys)
    return value if isinstance(value, str) else None


def objects_at(document: Any, *keys: str) -> list[dict[str, Any]]:
    """The objects in a list; empty when there is no such list."""
    value = value_at(document, *keys)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def interval_at(record: dict[str, Any]) -> Interval | None:
    """The latency under `measured`, or None when it is not complete."""
    value_ms, low_ms, high_ms = (
        number_at(record, "measured", key) for key in ("value_ms", "ci_low_ms", "ci_high_ms")
    )
    if value_ms is None or low_ms is None or high_ms is None:
        return None
    return Interval(value_ms, low_ms, high_ms)


def _first_known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
