"""Every reader that is fuzzed reads its valid files, and refuses what fuzzing has found."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from fuzz.readers import READERS, prepared

from hwnas.errors import InputError

FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name: str) -> None:
    with prepared(name) as reader:
        for seed in reader.seeds:
            reader.file.write_bytes(seed)
            reader.read()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_is_refused_or_read(path: Path) -> None:
    with prepared(path.parent.name) as reader, contextlib.suppress(InputError):
        reader.file.write_bytes(path.read_bytes())
        reader.read()
