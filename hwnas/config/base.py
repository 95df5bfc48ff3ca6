"""What every table of a configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the file: unknown keys and wrong types are errors, values cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
