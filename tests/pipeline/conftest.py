"""A finished run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import settings, table_file

import hwnas
from hwnas.config import load_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run in the NAS-Bench-201 space."""
    folder = tmp_path_factory.mktemp("finished")
    config = load_config(None, settings("nasbench201"))
    table = table_file("nasbench201", folder)
    hwnas.run(config, folder / "run", table=table, show_progress=False)
    return folder / "run"
