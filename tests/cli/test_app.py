"""The command line: bad input ends in one line and exit code 2, `--json` prints one object."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import SMALLEST, refused
from helpers.runs import settings, table_file
from helpers.tiny import table_of, tiny_space

import hwnas
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces import SPACES


def tiny(*more: str) -> list[str]:
    return [part for s in settings("darts", *more) for part in ("--set", s)]


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["runn"], ["runn"]),
        (["run", "--no-such-option"], ["--no-such-option"]),
        (["run", "--budget-ms", "fast"], ["--budget-ms", "number"]),
        (["run", "no_such.toml"], ["no_such.toml", "no such configuration"]),
        (["run", "--set", "train.epoch=3"], ["train.epoch", "unknown key"]),
        (["run", "--set", "train.epochs=many"], ["train.epochs", "integer"]),
        (["run", "--set", "space.name=no_such"], ["no_such", "darts"]),
        (["run", "--strategy", "magic"], ["magic", "unknown strategy", "evolution"]),
        (["run", "--set", "search.settings.darts.rate=1"], ["rate", "unknown key", "beta_decay"]),
        (["run", "--strategy", "spos", "--set", "search.max_skips=2"], ["max_skips", "spos"]),
        (["run", "--strategy", "gdas", "--set", "search.max_growth=1.3"], ["max_growth", "darts"]),
        (
            ["run", "darts_slice", "--set", "search.evaluator=training"],
            ["darts", "gradient", "training"],
        ),
        (["run", "--set", "space.cels=3"], ["space.cels"]),
        (["run", "--set", "space.height=32"], ["space.height", "28", "32"]),
        (["run", "--set", "data.name=npz"], ["needs a path"]),
        (["run", "--set", "latency.runtime=abacus"], ["abacus", "onnxruntime-cpu"]),
        (["profile", "--space", "no_such"], ["no_such"]),
        (["train", "no_such_folder"], ["no_such_folder"]),
        (["export", "no_such_folder"], ["no_such_folder"]),
        (["check", "no_such.onnx"], ["no_such.onnx"]),
        (["check", "no_such.onnx", "--budget-ms", "nan"], ["--budget-ms"]),
        (["check", "no_such.onnx", "--budget-ms=-1"], ["--budget-ms"]),
        (["report", "no_such_folder"], ["no_such_folder"]),
        (["report", "no_such_folder", "other"], ["no_such_folder"]),
        (["report", "no_such_folder", "--out", "a.html"], ["--out", "comparison"]),
        (["report", "no_such_folder", "--tensorboard", "logs"], ["no_such_folder"]),
        (["table", "validate", "no_such.json"], ["no_such.json"]),
        (["table", "diff", "one.json"], ["tables"]),
    ],
)
def test_bad_usage(cli, arguments, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli(*arguments), *words)


@pytest.mark.parametrize(
    "name,setting,content",
    [
        ("missing.npz", "npz", None),
        ("pickle.npz", "npz", pickle.dumps({"x_train": 1})),
        ("empty.npz", "npz", b""),
        ("cifar-10-python.tar.gz", "cifar10", b"\x1f\x8b"),
    ],
)
def test_bad_data(cli, tmp_path, name, setting, content) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "run"
    data = ["--set", f"data.name={setting}", "--set", f"data.path={path}"]
    refused(cli("run", *tiny(), *data, "--out", str(out)), name)
    assert not (out / "latency_table.json").exists()


def test_an_npz_of_objects_is_refused(cli, tmp_path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x_train=np.array([{"a": 1}], dtype=object))
    data = ["--set", "data.name=npz", "--set", f"data.path={path}"]
    refused(cli("run", *tiny(), *data, "--out", str(tmp_path / "run")), "objects.npz")


@pytest.fixture
def table(tmp_path) -> Path:
    return table_file("darts", tmp_path)


def test_truncated_table(cli, table, tmp_path) -> None:
    table.write_text(table.read_text()[:-200])
    out = str(tmp_path / "run")
    refused(cli("run", *tiny(), "--table", str(table), "--out", out), "table.json")


@pytest.mark.parametrize(
    "key,value",
    [("device", "Abacus 3000"), ("runtime", "torch-cpu"), ("batch", 7), ("threads", 64)],
)
def test_table_of_another_device(cli, table, tmp_path, key, value) -> None:
    mine = LatencyTable.load(table)
    other = LatencyTable.from_measurements(
        {row.spec: row.measurement for row in mine.operators},
        device=mine.device.model_copy(update={key: value}),
        protocol=mine.protocol,
        statistic=mine.statistic,
        definitions=mine.definitions,
    )
    other.save(table)
    result = cli("run", *tiny(), "--table", str(table), "--out", str(tmp_path / "run"))
    refused(result, key, str(value), "hwnas profile")


def test_table_of_other_operators(cli, table, tmp_path) -> None:
    mine = LatencyTable.load(table)
    other = LatencyTable.from_measurements(
        {row.spec: row.measurement for row in mine.operators},
        device=mine.device,
        protocol=mine.protocol,
        statistic=mine.statistic,
        definitions=dict.fromkeys(mine.definitions, "0123456789abcdef"),
    )
    other.save(table)
    result = cli("run", *tiny(), "--table", str(table), "--out", str(tmp_path / "run"))
    refused(result, "another definition", "hwnas profile")


def test_table_without_the_operators(cli, tmp_path) -> None:
    path = tmp_path / "other.json"
    table_of(tiny_space("nasbench201")).save(path)
    result = cli("run", *tiny(), "--table", str(path), "--out", str(tmp_path / "run"))
    refused(result, "lacks", "hwnas profile")


def test_impossible_budget_is_refused_before_training(cli, table, tmp_path) -> None:
    out = tmp_path / "run"
    line = [*tiny(), "--table", str(table), "--budget-ms", "1e-9", "--out", str(out)]
    refused(cli("run", *line), "no architecture keeps the budget", "slowest")
    assert not out.exists()


def test_unwritable_folder(cli, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    refused(cli("run", *tiny(), "--out", str(out)), "the folder cannot be written")


def test_a_folder_with_a_run_is_not_overwritten(cli, tmp_path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "history.jsonl").write_text("{}\n")
    refused(cli("run", *tiny(), "--out", str(out)), "already holds a run", "--resume")
    assert [path.name for path in out.iterdir()] == ["history.jsonl"]


def test_resuming_needs_a_run(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli("run", "--resume"), "--out")
    refused(cli("run", "--resume", "--out", str(tmp_path / "none")), "no run to resume")
    assert not list(tmp_path.iterdir())


def test_a_refused_run_can_be_corrected_in_its_folder(cli, tmp_path) -> None:
    out = str(tmp_path / "run")
    refused(cli("run", *tiny("space.height=32"), "--out", out), "space.height")
    refused(cli("run", *tiny("search.proxy={classes=3}"), "--out", out), "search.proxy.classes")
    refused(cli("run", *tiny("search.proxy={nodes=2}"), "--out", out), "other choices")
    refused(cli("run", *tiny("train.batch_size=300"), "--out", out), "too few training samples")


def test_missing_runtime_ends_with_3(cli, tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, out, err = cli("profile", "--runtime", "torch-cuda", "--out", str(tmp_path / "t.json"))
    assert code == 3
    assert out == ""
    assert "torch-cuda" in err
    assert not (tmp_path / "t.json").exists()


def test_table_verbs_print_one_json_object(cli, table, tmp_path) -> None:
    other = tmp_path / "other.json"
    other.write_text(table.read_text())
    for line in (
        ["validate", str(table)],
        ["info", str(table)],
        ["diff", str(table), str(other)],
        ["merge", str(table), str(other), "--out", str(tmp_path / "both.json")],
    ):
        code, out, _ = cli("table", *line, "--json")
        assert code == 0
        assert len(out.splitlines()) == 1
        assert isinstance(json.loads(out), dict)
        code, out, _ = cli("table", *line)
        assert code == 0
        assert out.strip()
    assert LatencyTable.load(tmp_path / "both.json").operators == LatencyTable.load(table).operators


def test_info_names_runtimes_and_spaces(cli) -> None:
    code, out, _ = cli("info", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["runtimes"]["onnxruntime-cpu"] == "available"
    assert document["spaces"] == sorted(SPACES)
    assert cli("info")[0] == 0


def test_profile_measures_and_resumes(cli, tmp_path) -> None:
    path = tmp_path / "table.json"
    line = ["profile", "--set", SMALLEST, "--out", str(path), "--seconds", "0.1"]
    code, out, _ = cli(*line, "--json")
    assert code == 0
    assert json.loads(out)["operators"] == len(LatencyTable.load(path).operators)
    assert json.loads(out)["statistic"] == "p10"
    assert LatencyTable.load(path).protocol.time_limit_s == 1.6
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "verb",
    "run profile search train export check report info spaces table".split()
    + [f"table {verb}" for verb in "validate info diff merge".split()],
)
def test_help_has_an_example(cli, verb: str) -> None:
    code, out, _ = cli(*verb.split(), "--help")
    assert code == 0
    if verb != "table":
        assert f"Example: hwnas {verb}" in " ".join(out.split())


@pytest.mark.parametrize(
    "arguments,proposal",
    [
        (["run", "--strategy", "evolutoin"], "did you mean evolution?"),
        (["run", "--set", "space.name=drats"], "did you mean darts?"),
        (["run", "--runtime", "onnxruntime-cup"], "did you mean onnxruntime-cpu?"),
        (["run", "--set", "search.settings.darts.learning_rat=1"], "did you mean learning_rate?"),
        (["run", "darts_slice", "--set", "space.chanels=8"], "did you mean channels?"),
        (["run", "mbconv_slise"], "did you mean mbconv_slice?"),
    ],
)
def test_the_nearest_known_name_is_proposed(
    cli, arguments, proposal, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli(*arguments), proposal)
    assert not list(tmp_path.iterdir())


def test_the_version_is_printed(cli) -> None:
    assert cli("--version")[:2] == (0, f"hwnas {hwnas.__version__}\n")


def test_latencies_are_predicted_under_the_old_name_too(cli, tmp_path) -> None:
    files = [f"{name}.csv" for name in ("archs", "new", "old")]
    archs, new, old = (str(tmp_path / name) for name in files)
    table = "nasbench201-1080ti_1"
    assert cli("table", "design", "--space", "nasbench201", "-n", "3", "--out", archs)[0] == 0
    assert cli("table", "predict", "--table", table, "--archs", archs, "--out", new)[0] == 0
    code, _, err = cli("predict", "--table", table, "--archs", archs, "--out", old)
    assert code == 0 and "hwnas table predict" in err
    assert Path(old).read_bytes() == Path(new).read_bytes()
