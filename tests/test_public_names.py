"""The library's surface: the listed names, and nothing heavy until one is used."""

from __future__ import annotations

import subprocess
import sys

import hwnas


def test_all_names_can_be_had() -> None:
    assert hwnas.__all__ == sorted(hwnas.__all__)
    assert 10 <= len(hwnas.__all__) <= 27
    for name in hwnas.__all__:
        assert getattr(hwnas, name) is not None
    assert hwnas.__version__.count(".") == 2


def test_submodules_do_not_hide_functions() -> None:
    """`hwnas.search` and its like must stay functions whatever has been imported."""
    code = (
        "import hwnas, hwnas.pipeline.stages, hwnas.pipeline.profile, hwnas.cli.app\n"
        "import hwnas.supernet.search, hwnas.runs.run_folder, hwnas.checking.check\n"
        "assert all(callable(getattr(hwnas, n)) for n in ('check', 'run', 'search', 'profile'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, hwnas.cli.app\n"
        "try: hwnas.cli.app.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
