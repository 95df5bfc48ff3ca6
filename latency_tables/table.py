"""The latency table: measured operator latencies of one device and runtime, as JSON, schema 1.

A table is refused rather than guessed from: a missing row, another device, a changed byte or a
number that is not a time each raise an `InputError` that names the file and the key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    computed_field,
    field_validator,
    model_validator,
)

from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Audit, Calibration, Source
from hwnas.latency_tables.files import read_json, show, write_atomic
from hwnas.latency_tables.statistics import Statistic, Status
from hwnas.latency_tables.timing import Protocol

HOUR_MS = 3_600_000.0

Text = Annotated[str, Field(min_length=1, max_length=500)]
Size = Annotated[int, Field(ge=1, le=2**24)]
# An operator that takes an hour is a unit mistake or a forged file.
TimeMs = Annotated[float, Field(ge=0, le=HOUR_MS, allow_inf_nan=False)]
TableStatistic = Statistic | Literal["mean"]


@dataclass(frozen=True, order=True)
class OpSpec:
    """An operator by its published name, with the shapes it runs at; the key of a table.

    `height` and `width` are those of the operator's input.
    """

    name: str
    c_in: int
    c_out: int
    height: int
    width: int
    stride: int = 1

    def __str__(self) -> str:
        shape = f"{self.c_in}>{self.c_out} {self.height}x{self.width}"
        return f"{self.name} {shape} s{self.stride}"


class Measurement(BaseModel):
    """One operator's latency per inference: quantiles of the round medians, in ms.

    Published tables often have nothing but a mean: then `mean_ms` stands alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    median_ms: TimeMs | None = None
    p10_ms: TimeMs | None = None
    p90_ms: TimeMs | None = None
    mean_ms: TimeMs | None = None
    rounds: Size
    status: Status

    @model_validator(mode="after")
    def _quantiles_in_order(self) -> Measurement:
        quantiles = [q for q in (self.p10_ms, self.median_ms, self.p90_ms) if q is not None]
        if len(quantiles) != (0 if self.mean_ms is not None else 3):
            raise ValueError("expected either median_ms, p10_ms and p90_ms, or mean_ms")
        if quantiles != sorted(quantiles):
            raise ValueError("p10_ms <= median_ms <= p90_ms does not hold")
        return self

    def value_ms(self, statistic: TableStatistic) -> float:
        """The figure that a table of this statistic states; KeyError if it is not there."""
        figures = {"p10": self.p10_ms, "median": self.median_ms, "mean": self.mean_ms}
        value = figures[statistic]
        if value is None:
            raise KeyError(statistic)
        return value


class _OperatorKey(BaseModel):
    """The columns of a row that make up its `OpSpec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    c_in: Size
    c_out: Size
    height: Size
    width: Size
    stride: Size


class OperatorRow(Measurement, _OperatorKey):
    """A row of the file: the operator's key, then its measurement."""

    @property
    def spec(self) -> OpSpec:
        """The row's key."""
        return OpSpec(self.name, self.c_in, self.c_out, self.height, self.width, self.stride)

    @property
    def measurement(self) -> Measurement:
        """The row's figures without the key."""
        return Measurement(**{key: getattr(self, key) for key in Measurement.model_fields})


class DeviceProfile(BaseModel):
    """Where and how a table was measured; two tables compare only where these agree."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Text
    device_class: Literal["cpu", "gpu"]
    runtime: Text
    dtype: Text
    batch: Size
    threads: Size
    layout: Text
    options: dict[str, str] | None = Field(
        default=None, description="settings of the runtime's library, as it names them"
    )
    versions: dict[str, str]

    @classmethod
    def elsewhere(
        cls, device: str, device_class: Literal["cpu", "gpu"], batch: int, runtime: str
    ) -> DeviceProfile:
        """A device that others measured on, of whose settings no more is known."""
        return cls(
            device=device,
            device_class=device_class,
            runtime=runtime,
            dtype="float32",
            batch=batch,
            threads=1,
            layout="unknown",
            versions={},
        )

    def differences(self, other: DeviceProfile, keys: Iterable[str]) -> list[str]:
        """Return "key: expected X, got Y" for every named key where `other` differs."""
        return [
            f"{key}: expected {getattr(self, key)!r}, got {getattr(other, key)!r}"
            for key in keys
            if getattr(self, key) != getattr(other, key)
        ]


class LatencyTable(BaseModel):
    """Latencies on one device, runtime, dtype, batch and thread count.

    Of operators, of whole networks through a calibration, or of both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="hwnas latency table, schema 1")

    schema_version: Literal[1] = Field(default=1, alias="schema")
    device: DeviceProfile
    protocol: Protocol | None = None
    statistic: TableStatistic
    created: str = Field(description="ISO 8601 date of the measurement")
    definitions: dict[str, str] = Field(
        description="hash of the structure of each operator that was measured here, by name"
    )
    source: Source | None = None
    calibration: Calibration | None = None
    audit: Audit | None = None
    operators: tuple[OperatorRow, ...] = ()

    _by_spec: dict[OpSpec, Measurement] = PrivateAttr(default_factory=dict)

    @field_validator("created")
    @classmethod
    def _created_is_a_date(cls, value: str) -> str:
        date.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _rows_have_the_statistic(self) -> LatencyTable:
        for index, row in enumerate(self.operators):
            if (row.mean_ms is None) == (self.statistic == "mean"):
                raise ValueError(f"row {index} has no {self.statistic}")
        return self

    @field_validator("operators")
    @classmethod
    def _keys_are_unique(cls, rows: tuple[OperatorRow, ...]) -> tuple[OperatorRow, ...]:
        first_index: dict[OpSpec, int] = {}
        for index, row in enumerate(rows):
            first = first_index.setdefault(row.spec, index)
            if first != index:
                raise ValueError(f"rows {first} and {index} are both {row.spec}")
        return rows

    def model_post_init(self, context: Any, /) -> None:
        """Index the rows by their key."""
        self._by_spec = {row.spec: row.measurement for row in self.operators}

    @computed_field(description="SHA-256 of the canonical JSON of everything else")  # type: ignore[prop-decorator]
    @property
    def sha256(self) -> str:
        """Hash of the content; written to the file and checked when it is loaded."""
        return _content_hash(self._content(exclude={"sha256"}))

    def _content(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """What is written; keys without a value are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude=exclude, exclude_none=True)

    @classmethod
    def from_measurements(
        cls,
        measurements: Mapping[OpSpec, Measurement],
        *,
        device: DeviceProfile,
        statistic: TableStatistic,
        definitions: Mapping[str, str],
        protocol: Protocol | None = None,
        created: str | None = None,
        source: Source | None = None,
        calibration: Calibration | None = None,
        audit: Audit | None = None,
    ) -> LatencyTable:
        """Build a table, rows sorted by key, dated today (UTC) unless `created` is given."""
        rows = tuple(
            OperatorRow.model_validate(
                vars(spec) | measurements[spec].model_dump(exclude_none=True)
            )
            for spec in sorted(measurements)
        )
        return cls(
            device=device,
            protocol=protocol,
            statistic=statistic,
            definitions=dict(definitions),
            created=created or datetime.now(UTC).date().isoformat(),
            source=source,
            calibration=calibration,
            audit=audit,
            operators=rows,
        )

    def with_calibration(self, calibration: Calibration) -> LatencyTable:
        """The same table with another calibration; an audit of the old one is dropped."""
        return self.model_copy(update={"calibration": calibration, "audit": None})

    def with_audit(self, audit: Audit) -> LatencyTable:
        """The same table with an audit."""
        return self.model_copy(update={"audit": audit})

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read and check a table.

        Args:
            path: a JSON file of at most 64 MB.

        Raises:
            InputError: the file is missing, too large, not JSON, truncated, of another schema,
                holds an unknown, missing, duplicate or impossible entry, or its hash differs.
        """
        path = Path(path)
        content = read_json(path)
        found = content.pop("sha256", None)
        schema = content.get("schema")
        if type(schema) is not int or schema != 1:
            mend = "update hwnas" if isinstance(schema, int) and schema > 1 else ""
            raise InputError(
                "unknown schema",
                where=f"{path}: schema",
                expected=1,
                actual=show(schema),
                mend=mend,
            )
        try:
            table = cls.model_validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            _raise_input_error(error, path)
        expected = _content_hash(content)
        if found != expected:
            raise InputError(
                "the content was changed after it was saved",
                where=f"{path}: sha256",
                expected=expected,
                actual=show(found),
                mend="restore the file or measure the table again",
            )
        return table

    def save(self, path: str | Path) -> None:
        """Write the table so that `path` holds either the old file or the whole new one.

        Raises:
            InputError: the folder cannot be written to, or the disk is full.
        """
        write_atomic(Path(path), self._to_json())

    def _to_json(self) -> str:
        """Return the file's text: an indented head, then one line a row, so that diffs read."""
        content = self._content()
        rows = [json.dumps(row) for row in content.pop("operators")]
        # Lists of numbers take one line; strings hold no line breaks, so none is touched.
        head = re.sub(
            r"\[\n[-+\d.eE,\s]*\]",
            lambda found: " ".join(found[0].split()),
            json.dumps(content, indent=2).removesuffix("\n}"),
        )
        body = "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else "[]"
        return f'{head},\n  "operators": {body}\n}}\n'

    def specs(self) -> list[OpSpec]:
        """Return the keys of the table in the order of its rows."""
        return list(self._by_spec)

    def measurement(self, spec: OpSpec) -> Measurement:
        """Return the row of `spec`.

        Raises:
            InputError: the table has no such row.
        """
        try:
            return self._by_spec[spec]
        except KeyError:
            raise InputError(
                "the latency table has no such operator",
                where=self.device.device,
                expected=spec,
                actual=f"{len(self.operators)} other rows",
                mend="measure it with `hwnas profile`",
            ) from None

    def latency_ms(self, spec: OpSpec) -> float:
        """Return the latency of `spec` by the table's statistic, in ms.

        Raises:
            InputError: the table has no such row.
        """
        return self.measurement(spec).value_ms(self.statistic)

    def missing(self, specs: Iterable[OpSpec]) -> list[OpSpec]:
        """Return those of `specs` that have no row, sorted, each once."""
        return sorted(set(specs) - self._by_spec.keys())

    def require(self, specs: Iterable[OpSpec], command: str) -> None:
        """Check that every one of `specs` has a row.

        Args:
            specs: the operators that will be looked up.
            command: the command that measures what is missing, for the message.

        Raises:
            InputError: some have none; names the first three, how many, and the command.
        """
        missing = self.missing(specs)
        if missing:
            first = "; ".join(str(spec) for spec in missing[:3])
            raise InputError(
                f"the latency table for {self.device.device} lacks {len(missing)} operator(s)",
                where="latency table",
                expected=first + ("; ..." if len(missing) > 3 else ""),
                mend=f"measure them with `{command}`",
            )

    def require_device(self, profile_here: DeviceProfile) -> None:
        """Check that the table was measured on this device and runtime, in this setting.

        Raises:
            InputError: device, runtime, dtype, batch or threads differ; lists each of them.
        """
        keys = ("device", "device_class", "runtime", "dtype", "batch", "threads")
        differences = profile_here.differences(self.device, keys)
        if differences:
            raise InputError(
                f"measured in another setting ({'; '.join(differences)})",
                where="latency table",
                mend="measure a table here with `hwnas profile`",
            )

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Return the rows of both tables; where both have one, `other`'s, the newer, is kept.

        Raises:
            InputError: device profile, statistic or operator definitions differ.
        """
        differences = self.device.differences(other.device, DeviceProfile.model_fields)
        if self.statistic != other.statistic:
            differences.append(f"statistic: expected {self.statistic!r}, got {other.statistic!r}")
        differences += [
            f"definition of {name}: expected {self.definitions[name]!r}, got {definition!r}"
            for name, definition in other.definitions.items()
            if self.definitions.get(name, definition) != definition
        ]
        if differences:
            raise InputError(f"tables do not belong together ({'; '.join(differences)})")
        return LatencyTable.from_measurements(
            self._by_spec | other._by_spec,
            device=other.device,
            protocol=other.protocol,
            statistic=other.statistic,
            definitions=self.definitions | other.definitions,
            created=other.created,
        )

    def diff(self, other: LatencyTable) -> list[tuple[OpSpec, float, float]]:
        """Return (spec, ms here, ms in `other`) of the operators that both tables have.

        Operators of one table only are what `missing` of the other one's `specs()` gives.
        """
        shared = sorted(self._by_spec.keys() & other._by_spec.keys())
        return [(spec, self.latency_ms(spec), other.latency_ms(spec)) for spec in shared]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file; published as `schema.json`."""
    return LatencyTable.model_json_schema(by_alias=True, mode="serialization")


def _content_hash(content: Mapping[str, Any]) -> str:
    """Hash everything but the hash itself, independent of white space and key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _raise_input_error(error: ValidationError, path: Path) -> NoReturn:
    """Turn pydantic's first complaint into one line that names file and key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    where = f"{path}: {show(key)[1:-1]}" if key else str(path)
    message = first["msg"]
    match first["type"]:
        case "missing":
            raise InputError("missing key", where=where) from None
        case "extra_forbidden":
            raise InputError("unknown key", where=where, actual=show(first["input"])) from None
        case "value_error":
            raise InputError(message.removeprefix("Value error, "), where=where) from None
        case _:
            raise InputError(
                "unusable value",
                where=where,
                expected=message.removeprefix("Input should be "),
                actual=show(first["input"]),
            ) from None
