"""Errors that nobody foresaw: one line, exit code 4, and the traceback in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import hwnas.reporting.catalogue


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Make `hwnas spaces` fail with an exception."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail_with(error: Exception) -> None:
        def fails(*arguments, **options):
            raise error

        monkeypatch.setattr(hwnas.reporting.catalogue, "read_catalogue", fails)

    return fail_with


def test_any_command_ends_with_one_line_and_a_file(cli, failing) -> None:
    failing(KeyError("an error\nof two lines"))
    code, out, err = cli("spaces")
    assert (code, out) == (4, "")
    (line,) = err.splitlines()
    found = re.search(r"\S+hwnas-error-\S+\.txt", line)
    assert found is not None
    assert "KeyError" in line
    assert "Traceback" in Path(found[0]).read_text()


def test_a_missing_temporary_folder_hides_no_error(cli, failing, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    failing(KeyError("key"))
    code, _, err = cli("spaces")
    assert code == 4
    assert err.count("\n") == 1
    assert "its traceback could not be written" in err


def allocation_error() -> Exception:
    """What PyTorch raises where memory runs out."""
    try:
        torch.empty(2**55, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("a machine with a petabyte")


@pytest.mark.parametrize("error", [MemoryError(), allocation_error()])
def test_memory_that_runs_out_is_no_fault_of_the_program(cli, failing, error, tmp_path) -> None:
    failing(error)
    code, _, err = cli("spaces")
    assert code == 2
    assert "more memory is needed" in err
    assert not list(tmp_path.iterdir())
