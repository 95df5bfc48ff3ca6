"""Latency tables of estimators are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny import table_of

from hwnas.config import Config
from hwnas.estimators import fitting
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.profile import profiled_space


@pytest.fixture(scope="session", autouse=True)
def _made_up_tables():
    """Measuring operators takes half a minute."""

    def profile(config: Config, out: Path, **options) -> LatencyTable:
        table = table_of(profiled_space(config))
        out.parent.mkdir(parents=True, exist_ok=True)
        table.save(out)
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "profile", profile)
        yield
