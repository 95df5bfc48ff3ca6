"""The device and the settings that a latency table was measured with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hwnas.latency_tables.rows import Size, Text


class DeviceProfile(BaseModel):
    """The device, runtime and settings of a measurement.

    Latencies of two tables can be compared only where their profiles agree.
    """

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
        """Return the profile of a published measurement, which states no other settings."""
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
        """Return "key: expected X, got Y" for each of `keys` whose value differs in `other`."""
        return [
            f"{key}: expected {getattr(self, key)!r}, got {getattr(other, key)!r}"
            for key in keys
            if getattr(self, key) != getattr(other, key)
        ]
