"""Hostile and broken files are refused with one line, within the limits of the process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from helpers.hostile_files import CASES
from helpers.unchecked_models import model_of, node

from hwnas.errors import InputError
from hwnas.inspection.__main__ import describe_model
from hwnas.inspection.process import inspect_model

ENDED_BY_LIMITS = {"a_hundred_thousand_nodes", "numbers_that_unpack_to_240_mb"}
"""Cases that only the limits of the process refuse."""
REPRESENTATIVE = (
    "fifo",
    "sparse_file_of_4_gib",
    "zip_bomb",
    "declares_an_exabyte",
    "external_by_link",
    "cycle",
    "functions_in_a_circle",
)
MOST_MB, MOST_SECONDS = 200, 1.0
"""What the inspection of a file may take; processor time, which other load does not change."""


def test_there_are_at_least_forty_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", sorted(set(CASES) - ENDED_BY_LIMITS))
def test_a_refusal_names_file_and_cause(name, tmp_path, monkeypatch) -> None:
    write, words = CASES[name]
    path = write(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "placeholder").touch()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InputError) as refusal:
        describe_model(path, "mark", "placeholder")
    line = str(refusal.value)
    assert str(path) in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", [*REPRESENTATIVE, *sorted(ENDED_BY_LIMITS)])
def test_the_subprocess_refuses_within_the_time_limit(name, tmp_path) -> None:
    write, words = CASES[name]
    path, before_s = write(tmp_path), children_s()
    with pytest.raises(InputError) as refusal:
        inspect_model(path)
    for word in words:
        assert word in str(refusal.value)
    assert children_s() - before_s < MOST_SECONDS


def children_s() -> float:
    """Processor time of all subprocesses that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_file_that_changed_after_the_inspection_is_refused(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of().SerializeToString())
    found = inspect_model(path)
    found.require_unchanged()
    path.write_bytes(model_of(node("Abs", "x", "y")).SerializeToString())
    with pytest.raises(InputError, match="changed since it was inspected"):
        found.require_unchanged()
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        found.require_unchanged()


MEASURED = """
import json, resource, sys
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
line = None
try: inspect_model(sys.argv[1])
except InputError as error: line = str(error)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([line, used.ru_maxrss * 1024 / 1e6, used.ru_utime + used.ru_stime]))
"""


def measured(path) -> tuple[str | None, float, float]:
    """The refusal, and the subprocess's peak memory in MB and processor time in seconds."""
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, check=True)
    return tuple(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_subprocess_stays_within_memory_and_time(name, tmp_path) -> None:
    write, words = CASES[name]
    line, peak_mb, seconds = measured(write(tmp_path))
    assert line is not None
    assert all(word in line for word in words)
    assert peak_mb < MOST_MB
    assert seconds < MOST_SECONDS
