"""The latency table: measured latencies of one device and runtime, stored as JSON (schema 1).

Nothing is ever estimated in place of a missing or damaged entry: a missing row, a table of another
device, changed content and a number that cannot be a latency each raise an `InputError` that names
the file and the key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

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
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.files import input_error, read_json, show, write_atomic
from hwnas.latency_tables.rows import (
    Measurement,
    OperatorRow,
    OpSpec,
    ReferenceSessions,
    TableStatistic,
)
from hwnas.latency_tables.timing import Protocol

__all__ = ["DeviceProfile", "LatencyTable", "Measurement", "OpSpec", "json_schema"]


class LatencyTable(BaseModel):
    """Latencies on one device with one runtime, number format, batch size and thread count.

    A table holds operators, a calibration that predicts whole networks, or both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="hwnas latency table, schema 1")

    schema_version: Literal[1] = Field(default=1, alias="schema")
    device: DeviceProfile
    protocol: Protocol | None = None
    statistic: TableStatistic
    created: str = Field(description="ISO 8601 date of the measurement")
    definitions: dict[str, str] = Field(
        description="hash of the structure of each measured operator, by name; empty if published"
    )
    source: Source | None = None
    calibration: Calibration | None = None
    audit: Audit | None = None
    reference: ReferenceSessions | None = None
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
        """Index the rows by their key, after pydantic has validated them."""
        self._by_spec = {row.spec: row.measurement for row in self.operators}

    @computed_field(description="SHA-256 of the canonical JSON of everything else")  # type: ignore[prop-decorator]
    @property
    def sha256(self) -> str:
        """Hash of the content; written to the file and compared when the file is loaded."""
        return _content_hash(self._content(exclude={"sha256"}))

    def _content(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """Return the file's content; keys without a value are left out."""
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
        reference: ReferenceSessions | None = None,
    ) -> LatencyTable:
        """Build a table from the measurement of each operator; its rows are sorted by key.

        Args:
            measurements: by operator.
            device: the device and settings of the measurement.
            statistic: which column is the latency.
            definitions: hash of the structure of each operator that was measured here, by name.
            protocol: parameters of the measurement; None for published tables.
            created: ISO 8601 date; today (UTC) by default.
            source: where published figures come from; None if they were measured here.
            calibration: coefficients fitted to measured networks.
            audit: predicted against measured latency of held-out networks.
            reference: times of the speed reference beside the operators.
        """
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
            reference=reference,
            operators=rows,
        )

    def with_calibration(self, calibration: Calibration) -> LatencyTable:
        """Return the table with another calibration, without the audit of the old one."""
        return self.model_copy(update={"calibration": calibration, "audit": None})

    def with_audit(self, audit: Audit) -> LatencyTable:
        """Return the table with an audit."""
        return self.model_copy(update={"audit": audit})

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read and check a table.

        Args:
            path: a JSON file of at most 64 MB.

        Raises:
            InputError: the file is missing, too large, truncated, not JSON or of another schema;
                an entry is unknown, missing, duplicate or impossible; or the content does not
                match its hash.
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
            raise input_error(error, path) from None
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
        """Return the file's text: indented, but one line for each row, so that diffs are short."""
        content = self._content()
        rows = [json.dumps(row) for row in content.pop("operators")]
        # Put lists of numbers on one line. Strings contain no line breaks and cannot match.
        head = re.sub(
            r"\[\n[-+\d.eE,\s]*\]",
            lambda found: " ".join(found[0].split()),
            json.dumps(content, indent=2).removesuffix("\n}"),
        )
        body = "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else "[]"
        return f'{head},\n  "operators": {body}\n}}\n'

    def specs(self) -> list[OpSpec]:
        """Return the keys of the rows, in their order."""
        return list(self._by_spec)

    def measurement(self, spec: OpSpec) -> Measurement:
        """Return the measurement of `spec`.

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
        """Return those of `specs` that have no row, sorted and without duplicates."""
        return sorted(set(specs) - self._by_spec.keys())

    def require(self, specs: Iterable[OpSpec], command: str) -> None:
        """Check that every one of `specs` has a row.

        Args:
            specs: the operators that will be looked up.
            command: named in the error message as the way to measure what is missing.

        Raises:
            InputError: some have none; the message names the first three and their number.
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
        """Check that the table was measured on this device, with this runtime and settings.

        Raises:
            InputError: device, runtime, dtype, batch or threads differ; the message lists each
                difference.
        """
        keys = ("device", "device_class", "runtime", "dtype", "batch", "threads")
        differences = profile_here.differences(self.device, keys)
        if differences:
            raise InputError(
                f"measured with other settings ({'; '.join(differences)})",
                where="latency table",
                mend="measure a table here with `hwnas profile`",
            )

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Return a table with the rows of both; where both have a row, that of `other` is kept.

        Raises:
            InputError: the tables differ in device profile, statistic or operator definitions.
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
            raise InputError(f"the tables cannot be merged ({'; '.join(differences)})")
        return LatencyTable.from_measurements(
            self._by_spec | other._by_spec,
            device=other.device,
            protocol=other.protocol,
            statistic=other.statistic,
            definitions=self.definitions | other.definitions,
            created=other.created,
            reference=other.reference or self.reference,
        )

    def diff(self, other: LatencyTable) -> list[tuple[OpSpec, float, float]]:
        """Return (spec, ms here, ms in `other`) for each operator that both tables have.

        `table.missing(other.specs())` gives the operators that only `other` has.
        """
        shared = sorted(self._by_spec.keys() & other._by_spec.keys())
        return [(spec, self.latency_ms(spec), other.latency_ms(spec)) for spec in shared]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file; published as `schema.json`."""
    return LatencyTable.model_json_schema(by_alias=True, mode="serialization")


def _content_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of canonical JSON, which white space and key order do not change."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
