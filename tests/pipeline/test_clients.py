"""A run's federated search ends with an architecture, and unsuitable settings are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.runs import settings
from helpers.tiny import table_of

from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.profile import profiled_space
from hwnas.pipeline.stages import search


def searched(folder: Path, *more: str, space: str = "nasbench201"):
    config = load_config(None, settings(space, *more))
    table_of(profiled_space(config)).save(folder / "table.json")
    return search(config, folder / "run", table=folder / "table.json"), config


@pytest.mark.slow
def test_clients_that_differ_find_an_architecture(tmp_path) -> None:
    more = ["search.clients=2", "search.client_skew=2.0", "search.local_steps=4"]
    found, config = searched(tmp_path, *more)
    profiled_space(config).validate(found)
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["event"] == "search"]
    # A record for each round that passes a tenth step, and for the last one.
    assert [record["step"] for record in records] == [12]
    assert records[-1]["validation_loss"] > 0 and "probabilities" in records[-1]


def test_more_clients_than_batches_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"than a batch, expected at least 8 .*got 5"):
        searched(tmp_path, "search.clients=40")


def test_a_skew_needs_classes(tmp_path) -> None:
    more = ["data={name='generated-ratings'}", "train.flip=false", "train.crop_padding=0"]
    more += ["search.clients=2", "search.client_skew=1.0"]
    with pytest.raises(InputError, match=r"search.client_skew.*one class for each sample"):
        searched(tmp_path, *more, space="sequence")


@pytest.mark.parametrize(
    "more, message",
    [
        (["search.order=2"], "order = 1"),
        (["search.max_skips=2"], "max_skips"),
        (["search.strategy='evolution'", "search.evaluator='training'"], "evaluator = supernet"),
    ],
)
def test_settings_that_need_all_samples_in_one_place_are_refused(more, message) -> None:
    with pytest.raises(InputError, match=message):
        load_config(None, settings("nasbench201", "search.clients=2", *more))


def test_a_skew_without_clients_is_refused() -> None:
    with pytest.raises(InputError, match="several clients"):
        load_config(None, settings("nasbench201", "search.client_skew=1.0"))
