"""Configurations: what ships loads, what is wrong is named in one line."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.config import DataConfig, load_config, shipped_configs
from hwnas.data import DATASETS
from hwnas.errors import InputError
from hwnas.pipeline.profile import profiled_space


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_and_round_trip(name: str, tmp_path) -> None:
    config = load_config(name)
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    assert load_config(file) == config
    # A run's folder has the resolved settings: the defaults are in the file as well.
    assert tomllib.loads(file.read_text()) == config.model_dump(mode="json", exclude_none=True)
    if config.data.path is None:
        assert profiled_space(config).choices


def test_every_dataset_can_be_named() -> None:
    names = DataConfig.model_json_schema()["properties"]["name"]["enum"]
    # `own` stands for data that are given in Python.
    assert sorted(names) == sorted([*DATASETS, "own"])


def test_overrides_replace_values() -> None:
    config = load_config(
        None, ["train.epochs=3", "data.name=npz", "data.path=a b.npz", "budget.ms=0.5"]
    )
    assert config.train.epochs == 3
    assert config.data.path == "a b.npz"
    assert config.budget.ms == 0.5
    assert config.budget.fraction is None


@pytest.mark.parametrize(
    "text,message",
    [
        ("seed = ", "not TOML"),
        ("sed = 1", "sed: unknown key"),
        ('seed = "one"', "seed: .*integer"),
        ("seed = -1", "seed: .*greater than or equal to 0"),
        ('device = "tpu"', "device: .*'cpu' or 'cuda'"),
        ("[train]\nepochs = 0.5", "train.epochs: .*integer"),
        ("[budget]\nms = 1.0\nfraction = 0.5", "budget: .*either ms or fraction"),
        ("[budget]\nms = inf", "budget.ms: .*finite"),
        ("[search]\nevaluator = 'magic'", "search.evaluator"),
    ],
)
def test_malformed_files_are_named(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=f"mine.toml.*{message}") as error:
        load_config(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["train", "=3", "train.epochs.x=1", "train.epoch=1"])
def test_malformed_overrides_are_named(override: str) -> None:
    with pytest.raises(InputError):
        load_config(None, [override])


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_an_input_error(text: str) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.toml"
        file.write_text(text, encoding="utf-8", errors="ignore")
        with pytest.raises(InputError):
            load_config(file)
