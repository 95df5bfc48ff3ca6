"""What the tests of pages need: Chromium and the npm package onnxruntime-web."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas.errors import RuntimeMissingError
from hwnas.latency_tables.remote.browser import find_browser, find_package


def web_package() -> Path:
    """The folder of onnxruntime-web; the test is skipped without it or without Chromium.

    `HWNAS_ONNXRUNTIME_WEB` names the folder where it lies in no `node_modules` above the tests.
    """
    try:
        find_browser("tests")
        return find_package("tests", os.environ.get("HWNAS_ONNXRUNTIME_WEB"))
    except RuntimeMissingError as error:
        pytest.skip(str(error))
