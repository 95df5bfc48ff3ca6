"""CSV files of networks with their measured latencies or accuracies."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwnas.architecture import Architecture
from hwnas.calibration.prior import Prior
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace

ARCH, LATENCY_MS, STD_MS, ACCURACY = "arch", "latency_ms", "std_ms", "accuracy"
MAX_BYTES = 64 * 2**20
"""Largest accepted file."""
IMPLAUSIBLE = 100.0
"""A mean latency that differs from known devices by more than this factor is implausible."""
PLAUSIBLE = 30.0
"""A unit is the likely one if the mean in this unit is within this factor of known devices."""
UNITS = {1e-3: "microseconds", 1e3: "seconds"}
"""Units that are mistaken for milliseconds, by their size in milliseconds."""


def read_networks(path: Path, space: SearchSpace) -> list[Architecture]:
    """Read the networks of a CSV file with a column `arch`.

    Raises:
        InputError: the file cannot be read, or a line (named in the message) does not hold an
            architecture of the search space.
    """
    return [architecture for architecture, _ in _rows(path, space, ())]


def read_measurements(
    path: Path, space: SearchSpace, prior: Prior | None = None
) -> tuple[list[Architecture], np.ndarray]:
    """Read the networks and latencies of a CSV file with the columns `arch` and `latency_ms`.

    Args:
        path: the file.
        space: the search space of the networks.
        prior: knowledge about devices, to detect latencies in a wrong unit.

    Returns:
        The architectures, and their latencies (networks,) in ms.

    Raises:
        InputError: the file cannot be read, a line (named in the message) does not hold an
            architecture of the search space and a latency, or the latencies are plausible in
            seconds or microseconds but not in milliseconds.
    """
    rows = _rows(path, space, (LATENCY_MS,))
    latency_ms = np.array(
        [
            _number(values[LATENCY_MS], where, "a latency", math.inf, "milliseconds >= 0")
            for _, (where, values) in rows
        ]
    )
    if prior is not None and prior.typical_ms is not None:
        _check_unit(path, float(latency_ms.mean()), prior.typical_ms)
    return [architecture for architecture, _ in rows], latency_ms


def read_accuracies(path: Path, space: SearchSpace) -> dict[Architecture, float]:
    """Read accuracies from a CSV file with the columns `arch` and `accuracy` (in percent).

    Returns:
        Accuracies by architecture, 0 to 1.

    Raises:
        InputError: the file cannot be read, or a line (named in the message) does not hold an
            architecture of the search space and a percentage, or contradicts an earlier line.
    """
    found: dict[Architecture, float] = {}
    for architecture, (where, values) in _rows(path, space, (ACCURACY,)):
        percent = _number(values[ACCURACY], where, "an accuracy", 100.0, "percent 0 to 100")
        if found.setdefault(architecture, percent / 100) != percent / 100:
            raise InputError(
                "the same network has another accuracy in an earlier line",
                where=where,
                expected=f"{100 * found[architecture]:g}",
                actual=percent,
            )
    return found


def read_columns(
    path: Path, space: SearchSpace, names: Sequence[str]
) -> tuple[list[Architecture], dict[str, np.ndarray]]:
    """Read the networks of a CSV file with a column `arch`, and columns of numbers.

    Args:
        path: the file.
        space: the search space of the networks.
        names: of the columns.

    Returns:
        The architectures, and the values (networks,) of each column.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line (named in the message)
            does not hold an architecture of the search space and finite numbers.
    """
    rows = _rows(path, space, tuple(names))
    columns = {
        name: np.array([_finite(values[name], where, name) for _, (where, values) in rows])
        for name in names
    }
    return [architecture for architecture, _ in rows], columns


def _finite(text: str, where: str, name: str) -> float:
    """A finite number in a column; InputError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"not a number: {name}", where=where, expected="a finite number", actual=text
        )
    return value


def write_networks(
    path: Path,
    space: SearchSpace,
    architectures: Sequence[Architecture],
    columns: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write networks as a CSV file for `read_networks`, with further columns of numbers.

    Args:
        path: the file.
        space: the search space of the networks.
        architectures: the networks.
        columns: values (networks,) by the name of their column.
    """
    columns = columns or {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ARCH, *columns])
    for index, architecture in enumerate(architectures):
        figures = [f"{values[index]:.6g}" for values in columns.values()]
        writer.writerow([to_text(space, architecture), *figures])
    write_atomic(path, text.getvalue().encode())


def to_text(space: SearchSpace, architecture: Architecture) -> str:
    """Format an architecture for a CSV file: its genotype, as JSON unless it is a string."""
    genotype = space.to_genotype(architecture)
    return genotype if isinstance(genotype, str) else json.dumps(genotype)


def from_text(space: SearchSpace, text: str, folder: Path) -> Architecture:
    """Parse an architecture in a CSV file.

    Args:
        space: the search space.
        text: a genotype, JSON of a genotype, or the path of an architecture's JSON file.
        folder: folder to which the path is relative.

    Raises:
        InputError: the text is none of these, or not an architecture of the search space.
    """
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            return space.from_genotype(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise InputError("not a genotype in JSON", actual=error) from None
    if text.endswith(".json"):
        architecture = Architecture.load(folder / text)
        space.validate(architecture)
        return architecture
    return space.from_genotype(text)


def _rows(
    path: Path, space: SearchSpace, needed: Sequence[str]
) -> list[tuple[Architecture, tuple[str, dict[str, str]]]]:
    """Return the architecture of each line, with its place for error messages and its columns."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                "the file is too large", where=str(path), expected=f"at most {MAX_BYTES} bytes"
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        reader = csv.DictReader(lines, strict=True)
        missing = {ARCH, *needed} - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"missing column {', '.join(sorted(missing))}",
                where=str(path),
                expected=f"a header with {','.join([ARCH, *needed])}",
                actual=",".join(reader.fieldnames or ()) or "an empty file",
            )
        read = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("the file cannot be read", where=str(path), actual=error) from None
    found = []
    for number, values in enumerate(read, start=2):
        where = f"{path}: line {number}"
        try:
            architecture = from_text(space, values[ARCH] or "", path.parent)
        except InputError as error:
            raise InputError(str(error), where=where) from None
        found.append((architecture, (where, values)))
    if not found:
        raise InputError(
            "no networks", where=str(path), expected="at least one line below the header"
        )
    return found


def _number(text: str | None, where: str, what: str, most: float, expected: str) -> float:
    """Parse a number from 0 to `most`; `what` and `expected` describe it in error messages."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value <= most):
        raise InputError(f"not {what}", where=where, expected=expected, actual=text)
    return value


def _check_unit(path: Path, mean_ms: float, typical_ms: tuple[float, float]) -> None:
    """Raise InputError if the mean latency is plausible only in another unit.

    Args:
        path: the file, for the error message.
        mean_ms: mean of the latencies in the file.
        typical_ms: smallest and largest mean latency of known devices.
    """
    fastest_ms, slowest_ms = typical_ms
    if fastest_ms / IMPLAUSIBLE <= mean_ms <= slowest_ms * IMPLAUSIBLE:
        return
    for factor, unit in UNITS.items():
        read_ms = mean_ms * factor
        if fastest_ms / PLAUSIBLE <= read_ms <= slowest_ms * PLAUSIBLE:
            raise InputError(
                "the latencies do not seem to be in milliseconds",
                where=f"{path}: {LATENCY_MS}",
                expected=f"a mean near {fastest_ms:.3g} to {slowest_ms:.3g} ms as on known devices",
                actual=f"{mean_ms:.4g} ms; read as {unit}, it would be {read_ms:.4g} ms",
                mend="convert them to milliseconds, or use --prior none if they are correct",
            )
