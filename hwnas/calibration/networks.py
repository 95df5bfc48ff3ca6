"""Networks and their latencies as CSV files that people write and read."""

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
from hwnas.errors import InputError
from hwnas.runs.checkpoints import write_atomic
from hwnas.spaces.base import SearchSpace

ARCH, LATENCY_MS, STD_MS, ACCURACY = "arch", "latency_ms", "std_ms", "accuracy"
MAX_BYTES = 64 * 2**20
IMPLAUSIBLE = 100.0
"""A mean latency beyond known devices' by this factor is looked at as a mistaken unit."""
PLAUSIBLE = 30.0
"""It is one if 1,000 times more or less lies within this factor of them."""
UNITS = {1e-3: "microseconds", 1e3: "seconds"}


def read_networks(path: Path, space: SearchSpace) -> list[Architecture]:
    """The networks of a file with a column `arch`.

    Raises:
        InputError: naming the line, for what is malformed or not of the space.
    """
    return [architecture for architecture, _ in _rows(path, space, ())]


def read_measurements(
    path: Path, space: SearchSpace, prior: Prior | None = None
) -> tuple[list[Architecture], np.ndarray]:
    """The networks and latencies (networks,) of a file with columns `arch,latency_ms`.

    Args:
        path: the file.
        space: the search space of the networks.
        prior: what is known of devices, to tell a mistaken unit.

    Raises:
        InputError: naming the line, for what is malformed, not of the space or not a time; or
            when the latencies are a thousand times what any known device takes.
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
    """Accuracies, 0 to 1, from a file with the columns `arch,accuracy`, the latter in percent.

    Raises:
        InputError: naming the line, for what is malformed, not of the space or no percentage.
    """
    found: dict[Architecture, float] = {}
    for architecture, (where, values) in _rows(path, space, (ACCURACY,)):
        percent = _number(values[ACCURACY], where, "an accuracy", 100.0, "percent 0 to 100")
        if found.setdefault(architecture, percent / 100) != percent / 100:
            raise InputError("another accuracy of the same network", where=where, actual=percent)
    return found


def write_networks(
    path: Path,
    space: SearchSpace,
    architectures: Sequence[Architecture],
    columns: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write networks, and figures by column, so that `read_networks` reads them."""
    columns = columns or {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ARCH, *columns])
    for index, architecture in enumerate(architectures):
        figures = [f"{values[index]:.6g}" for values in columns.values()]
        writer.writerow([to_text(space, architecture), *figures])
    write_atomic(path, text.getvalue().encode())


def to_text(space: SearchSpace, architecture: Architecture) -> str:
    """An architecture in one cell of a file: its genotype, as JSON where it is no string."""
    genotype = space.to_genotype(architecture)
    return genotype if isinstance(genotype, str) else json.dumps(genotype)


def from_text(space: SearchSpace, text: str, folder: Path) -> Architecture:
    """Read a genotype, JSON of one, or the path of an architecture's JSON file.

    Raises:
        InputError: when it is none of these, or not of the space.
    """
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            return space.from_genotype(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise InputError("not a genotype", actual=error) from None
    if text.endswith(".json"):
        architecture = Architecture.load(folder / text)
        space.validate(architecture)
        return architecture
    return space.from_genotype(text)


def _rows(
    path: Path, space: SearchSpace, needed: Sequence[str]
) -> list[tuple[Architecture, tuple[str, dict[str, str]]]]:
    """Each line's architecture, place and columns."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("too large", where=str(path), expected=f"<= {MAX_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
        reader = csv.DictReader(lines, strict=True)
        missing = {ARCH, *needed} - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                "missing column",
                where=str(path),
                expected=",".join([ARCH, *needed]),
                actual=",".join(reader.fieldnames or ()) or "an empty file",
            )
        read = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("cannot be read", where=str(path), actual=error) from None
    found = []
    for number, values in enumerate(read, start=2):
        where = f"{path}: line {number}"
        try:
            architecture = from_text(space, values[ARCH] or "", path.parent)
        except InputError as error:
            raise InputError(str(error), where=where) from None
        found.append((architecture, (where, values)))
    if not found:
        raise InputError("no networks", where=str(path), expected="at least one line")
    return found


def _number(text: str | None, where: str, what: str, most: float, expected: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value <= most):
        raise InputError(f"not {what}", where=where, expected=expected, actual=text)
    return value


def _check_unit(path: Path, mean_ms: float, typical_ms: tuple[float, float]) -> None:
    """Refuse a mean that only another unit explains."""
    fastest_ms, slowest_ms = typical_ms
    if fastest_ms / IMPLAUSIBLE <= mean_ms <= slowest_ms * IMPLAUSIBLE:
        return
    for factor, unit in UNITS.items():
        read_ms = mean_ms * factor
        if fastest_ms / PLAUSIBLE <= read_ms <= slowest_ms * PLAUSIBLE:
            raise InputError(
                "latencies in another unit than milliseconds",
                where=f"{path}: {LATENCY_MS}",
                expected=f"a mean near {fastest_ms:.3g} to {slowest_ms:.3g} ms as on known devices",
                actual=f"{mean_ms:.4g} ms; read as {unit} it were {read_ms:.4g} ms",
                mend="state them in milliseconds, or use --prior none if they are right",
            )
