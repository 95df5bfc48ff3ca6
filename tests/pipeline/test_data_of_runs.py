"""The settings of data reach the reader, and a run says what the reader has left out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from helpers.data_files import save_csvs

from hwnas.config import DataConfig
from hwnas.errors import InputError
from hwnas.pipeline.configuration import load_config
from hwnas.pipeline.problem import read_dataset
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import run

ROWS = "".join(f"{i / 7:.3f},{i % 3},{i}\n" for i in range(40))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A table with a missing number."""
    return save_csvs(tmp_path, f"a,b,y\n,0,1\n{ROWS}", f"a,b,y\n{ROWS}")


def test_missing_numbers_are_refused_unless_the_configuration_says_otherwise(folder: str) -> None:
    with pytest.raises(InputError, match=r'set data\.missing = "mean"'):
        read_dataset(DataConfig(name="table", path=folder), 0)
    data = read_dataset(DataConfig(name="table", path=folder, missing="mean"), 0)
    assert len(data.train) == 41
    assert data.reading["missing"] == {"a": pytest.approx(sum(range(40)) / 7 / 40, abs=1e-3)}


def test_a_run_says_what_was_filled_in(folder: str, tmp_path: Path, caplog) -> None:
    overrides = ["train.batch_size=8", "search.batch_size=8", "data.missing=mean"]
    file = tmp_path / "mine.toml"
    file.write_text(f'[data]\nname = "table"\npath = {folder!r}\n[search]\nsteps = 1\n')
    run = Run.start(load_config(file, overrides), tmp_path / "run", resume=False)
    with caplog.at_level(logging.INFO, "hwnas"):
        run.begin()
    assert "1 missing cell filled with the mean" in caplog.text
    assert "train.csv row 1 a" in caplog.text


def test_configurations_may_begin_with_a_byte_order_mark(folder: str, tmp_path: Path) -> None:
    """Windows' Notepad writes one."""
    file = tmp_path / "mine.toml"
    text = f'[data]\nname = "table"\npath = {folder!r}\nmissing = "mean"\n'
    file.write_text("\ufeff" + text, "utf-8")
    assert load_config(file).data.missing == "mean"


def test_augmentation_that_does_not_suit_the_data_is_refused_before_anything_runs(tmp_path) -> None:
    config = load_config("sequence_ratings", ["train.flip=true", "data.train_limit=40"])
    with pytest.raises(InputError, match=r"train: flip: .*tables.*expected only noise"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
