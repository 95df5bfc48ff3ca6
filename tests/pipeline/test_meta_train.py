"""A start that is meta-trained over configurations, and searches that begin with it."""

from __future__ import annotations

import pytest
import torch
from helpers.command_line import refused
from helpers.runs import settings, table_file
from safetensors.torch import load_file, save_file

from hwnas.config import load_config
from hwnas.data import split_train
from hwnas.pipeline.meta_train import MetaSettings, meta_train
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import search_supernet
from hwnas.pipeline.table import prepare_table
from hwnas.runs.run_folder import RunFolder

TINY = settings("mbconv", "data.train_limit=64", "data.test_limit=20", "search.steps=4")


def arguments(*more: str, changes: tuple[str, ...] = ()) -> list[str]:
    changed = [part for one in (*TINY, *changes) for part in ("--set", one)]
    return ["meta-train", "mbconv_slice", "mbconv_slice", *changed, *more]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta") / "start"
    config = load_config("mbconv_slice", TINY)
    tasks = [("first", config), ("second", config)]
    return folder, meta_train(tasks, folder, MetaSettings(rounds=3, inner_steps=2))


def test_a_start_is_a_file_of_what_the_tasks_share(start) -> None:
    folder, document = start
    weights = load_file(folder / "start.safetensors")
    assert (len(weights), document["own"]) == (document["shared"], 2)
    assert not [name for name in weights if name.endswith("fc.weight")]
    records = RunFolder(folder).read_history()
    assert [one["step"] for one in records] == [3]
    assert {path.name for path in folder.glob("*.toml")} == {"task-1.toml", "task-2.toml"}
    assert load_config(folder / "task-2.toml").space.name == "mbconv"


def test_a_search_begins_with_the_start(start, tmp_path) -> None:
    folder, document = start
    file = folder / "start.safetensors"
    config = load_config(None, [*TINY, f"search.from={file}", "search.learning_rate=1e-12",
                                "search.learning_rate_min=0"])  # fmt: skip
    run = Run.start(config, tmp_path / "run", resume=False)
    run.begin()
    prepare_table(run, table_file("mbconv", tmp_path))
    halves = split_train(run.problem.dataset.train, 0.5, 0)
    loop = search_supernet(run, *halves).loop
    assert loop is not None
    state = loop.supernet.state_dict()
    for name, value in load_file(file).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(state[name], value, msg=name)
    (record,) = [one for one in run.folder.read_history() if one["event"] == "transfer"]
    assert record["setting"] == "search.from"
    assert sum(one["taken"] == "whole" for one in record["tensors"]) == document["shared"]


def test_a_finished_meta_training_is_left_as_it_is(cli, start) -> None:
    folder, _ = start
    before = (folder / "start.safetensors").read_bytes()
    again = arguments("--out", str(folder), "--rounds", "3", "--inner-steps", "2", "--resume")
    code, _, err = cli(*again)
    assert code == 0, err
    assert (folder / "start.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "more, changes, words",
    [
        (["--out", "{start}"], (), "already holds a meta-training"),
        (["--out", "{start}", "--resume"], (), "started with other settings"),
        (["--out", "{new}", "--resume"], (), "no meta-training to resume"),
        (["--out", "{new}"], ("search.evaluator='zero-cost'", "search.strategy='random'"),
         "only a supernet has weights"),
        (["nasbench201_slice", "--out", "{new}"], (), "have one supernet"),
    ],
)  # fmt: skip
def test_what_cannot_be_meta_trained_is_refused(cli, start, tmp_path, more, changes, words) -> None:
    line = [one.format(start=start[0], new=tmp_path / "new") for one in more]
    if "nasbench201_slice" in line:
        line = ["meta-train", "mbconv_slice", *line]
    else:
        line = arguments(*line, changes=changes)
    refused(cli(*line), words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content, words",
    [(None, "no such file"), (b"{}", "not a safetensors file"), ("other", "no tensor of this")],
)
def test_a_start_that_does_not_suit_is_refused(cli, tmp_path, content, words) -> None:
    file = tmp_path / "start.safetensors"
    if content == "other":
        save_file({"unknown": torch.zeros(2)}, file)
    elif content is not None:
        file.write_bytes(content)
    changed = [part for one in (*TINY, f"search.from={file}") for part in ("--set", one)]
    refused(cli("search", *changed, "--out", str(tmp_path / "run")), f"search.from: {file}", words)
    assert not (tmp_path / "run").exists()


def test_only_a_supernet_begins_with_a_start(cli, tmp_path) -> None:
    judged = ["search.evaluator='zero-cost'", "search.strategy='random'"]
    line = [part for one in (*TINY, *judged, "search.from=a") for part in ("--set", one)]
    refused(cli("search", *line, "--out", str(tmp_path / "run")), "from has weights of a supernet")
