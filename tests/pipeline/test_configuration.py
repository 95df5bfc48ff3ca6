"""Configurations that state only their data, and errors that name every wrong key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import write_photos
from PIL import Image

import hwnas
from hwnas.config import load_config as load_complete_config
from hwnas.errors import InputError
from hwnas.pipeline.configuration import load_config


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name,space",
    [
        ("fashion-mnist-slice", "mbconv"),
        ("generated-text", "sequence"),
        ("generated-ratings", "sequence"),
        ("generated-language", "rnn"),
    ],
)
def test_the_data_alone_make_a_configuration(tmp_path, name: str, space: str) -> None:
    config = load_config(written(tmp_path, f'[data]\nname = "{name}"\n'))
    assert config.space.name == space
    assert config.budget.fraction == 0.5
    assert any("--budget-ms" in note and "budget.fraction" in note for note in config.notes)
    assert {note.split(":")[0] for note in config.notes} >= {"space", "search", "train"}
    resolved = written(tmp_path, config.to_toml())
    assert load_complete_config(resolved) == config == load_config(resolved)


def test_few_samples_get_small_batches_and_more_epochs(tmp_path) -> None:
    path = written(tmp_path, '[data]\nname = "fashion-mnist-slice"\n')
    many, few = load_config(path), load_config(path, ["data.train_limit=60"])
    assert few.train.batch_size < many.train.batch_size
    assert few.search.batch_size * 2 <= 30
    assert few.train.epochs > many.train.epochs
    assert few.search.ranking_images <= 30


def test_a_table_that_is_stated_in_part_gets_what_has_to_fit_the_data(tmp_path) -> None:
    text = '[data]\nname = "fashion-mnist-slice"\ntrain_limit = 60\n[train]\nflip = true\n'
    config = load_config(written(tmp_path, text))
    assert config.train.flip
    assert 2 * config.train.batch_size <= 60
    assert any(note.startswith("train.batch_size") for note in config.notes)


def test_images_of_different_sizes_get_a_common_one(tmp_path) -> None:
    write_photos(tmp_path / "photos")
    for index, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        Image.fromarray(np.zeros((50 + index, 70, 3), np.uint8)).save(file)
    config = load_config(written(tmp_path, f"[data]\nname='folder'\npath='{tmp_path}/photos'\n"))
    assert config.data.image_size == 48
    assert any("image_size = 48" in note and "differ" in note for note in config.notes)


def test_what_the_file_states_is_kept(tmp_path) -> None:
    text = '[data]\nname = "generated-ratings"\n[budget]\nms = 0.5\n[train]\nlearning_rate = 0.5\n'
    config = load_config(written(tmp_path, text), ["search.steps=7"])
    assert config.budget.ms == 0.5
    assert config.train.learning_rate == 0.5
    assert config.train.epochs >= 1  # chosen, since a table without it is invalid
    assert config.search.steps == 7
    assert not any("budget" in note for note in config.notes)


def test_notes_tell_what_overrides_leave_as_it_was_chosen(tmp_path) -> None:
    path = written(tmp_path, '[data]\nname = "generated-ratings"\n')
    config = load_config(path, ["budget.ms=0.5", "search.steps=7", "train.epochs=3"])
    assert not any(note.startswith("budget") for note in config.notes)
    assert any(note.startswith("search: 7 steps") for note in config.notes)
    assert any(note.startswith("train: 3 epochs") for note in config.notes)


def test_all_wrong_keys_and_values_are_named_with_the_nearest_known_ones(tmp_path) -> None:
    text = (
        'sede = 1\nepochs = 3\n[data]\nname = "generated-ratings"\n'
        '[search]\nevaluator = "suprnet"\nsteps = 5\nwarm_upp = 0.1\n'
    )
    with pytest.raises(InputError) as error:
        load_config(written(tmp_path, text))
    message = str(error.value)
    for words in (
        "sede: unknown key, did you mean seed?",
        "epochs: unknown key, did you mean train.epochs?",
        "search.warm_upp: unknown key, did you mean warmup?",
        "did you mean supernet?",
    ):
        assert words in message
    assert "\n" not in message and "missing" not in message


def test_a_path_is_a_configuration_and_is_blamed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(
        tmp_path, '[data]\nname = "generated-ratings"\n[space]\nname = "sequence"\nheight = 3\n'
    )
    with pytest.raises(InputError, match=r"mine\.toml"):
        hwnas.run(str(path), tmp_path / "run", show_progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.toml"]


def test_a_refused_start_keeps_a_folder_that_was_there(tmp_path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("notes")
    with pytest.raises(InputError, match="too few training samples"):
        hwnas.run(load_config("default", ["data.train_limit=20"]), out, show_progress=False)
    assert (out / "mine.txt").read_text() == "notes"


def test_notes_are_in_the_resolved_file(tmp_path) -> None:
    config = load_config(written(tmp_path, '[data]\nname = "generated-ratings"\n'))
    assert tomllib.loads(config.to_toml())["notes"] == config.notes
