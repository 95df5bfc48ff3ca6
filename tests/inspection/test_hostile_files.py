"""Hostile and broken files are refused with one line, by a process that stays small."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from helpers.hostile_files import CASES, model_of, node

from hwnas.errors import InputError
from hwnas.inspection.__main__ import judge_model
from hwnas.inspection.process import inspect_model

ENDED_BY_LIMITS = {"a_hundred_thousand_nodes", "numbers_that_unpack_to_240_mb"}
"""Only a process with limits refuses them."""
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
"""What judging a file may take; of processor time, since a busy machine makes the wall's longer."""


def test_there_are_forty() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", sorted(set(CASES) - ENDED_BY_LIMITS))
def test_the_line_names_file_and_cause(name, tmp_path, monkeypatch) -> None:
    write, words = CASES[name]
    path = write(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "location").touch()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InputError) as refusal:
        judge_model(path, "location")
    line = str(refusal.value)
    assert str(path) in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", [*REPRESENTATIVE, *sorted(ENDED_BY_LIMITS)])
def test_the_process_refuses(name, tmp_path) -> None:
    write, words = CASES[name]
    path, before_s = write(tmp_path), children_s()
    with pytest.raises(InputError) as refusal:
        inspect_model(path)
    for word in words:
        assert word in str(refusal.value)
    assert children_s() - before_s < MOST_SECONDS


def children_s() -> float:
    """Processor time of all processes that this one has started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_file_that_changed_since_is_refused(tmp_path) -> None:
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
    """Line, peak memory of the process in MB, and its processor time in seconds."""
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, check=True)
    return tuple(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_process_stays_small(name, tmp_path) -> None:
    write, words = CASES[name]
    line, peak_mb, seconds = measured(write(tmp_path))
    assert line is not None
    assert all(word in line for word in words)
    assert peak_mb < MOST_MB
    assert seconds < MOST_SECONDS
