"""The script for the first GPU, run dry on a CPU."""

from __future__ import annotations

import csv
import math
import sys
from functools import cache

import gpu_first_minutes
import pytest
import results
import torch
from bench_mixed_op import Tensors
from gpu_first_minutes import PARTS, Row, keeper, run_part
from helpers.processes import is_running, wait_for_end

from hwnas.latency_tables.measuring import energy

QUICK = ("correctness", "cells", "search_step", "long_search", "verdict", "energy")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def rows_of(part: str) -> list[Row]:
    return list(PARTS[part].rows(True))


def test_all_parts_fit_into_twelve_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 12 * 60


@pytest.mark.parametrize(
    "part",
    [part if part in QUICK else pytest.param(part, marks=pytest.mark.slow) for part in PARTS],
)
def test_every_part_runs_dry(part) -> None:
    rows = rows_of(part)
    assert rows
    assert len({tuple(row) for row in rows}) == 1, "all rows have the same columns"
    values = [row["value"] for row in rows if row["metric"] != "note"]
    assert all(math.isfinite(value) for value in values)


def test_errors_of_the_kernels_stand_beside_those_of_pytorch() -> None:
    rows = {(row["variant"], row["metric"]): row["value"] for row in rows_of("correctness")}
    for dtype in ("float32", "bfloat16", "float16"):
        mine, native = (rows[dtype, f"relative_error{end}"] for end in ("", "_of_pytorch"))
        assert 0 < mine <= 4 * native + 1e-5


def test_each_of_ours_is_compared_with_every_other() -> None:
    rows = [row for row in rows_of("cells") if row["metric"] == "ratio"]
    baselines = {row["baseline"] for row in rows if row["variant"] == "cpu"}
    assert {"eager_nchw", "eager_channels_last", "eager_channels_last_graphed"} <= baselines
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


@pytest.mark.slow
def test_each_mode_of_compile_is_timed_beside_ours() -> None:
    rows = [row for row in rows_of("compiled_cells") if row["metric"] == "ratio"]
    assert {(row["variant"], row["baseline"]) for row in rows} >= {("cpu", "compile")}
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in rows)


def test_a_mode_of_compile_that_fails_leaves_a_row(monkeypatch) -> None:
    def fail(*arguments):
        raise RuntimeError("overwritten by a subsequent run")

    monkeypatch.setattr(gpu_first_minutes, "interleaved", fail)
    (row,) = PARTS["compiled_cells"].rows(True)
    assert (row["variant"], row["metric"]) == ("compile", "failure")
    assert "overwritten" in row["value"]


def test_the_verdict_is_about_a_latency_and_a_budget() -> None:
    rows = {row["metric"]: row for row in rows_of("verdict")}
    assert rows["exit_code_of_verdict"]["value"] in (0, 1, 3)
    assert rows["budget_ms"]["value"] > 0 < rows["predicted_ms"]["value"]
    latency = rows["latency_ms"]
    assert 0 < latency["low"] <= latency["value"] <= latency["high"]


def test_energy_is_that_of_one_step(monkeypatch) -> None:
    """On a device whose counter can be read, and which uses 15 mJ for each step."""
    used_mj = 0.0
    step = Tensors.step

    def counted_step(self, run):
        nonlocal used_mj
        used_mj += 15.0
        return step(self, run)

    counter = energy.Counter("powercap", lambda: (used_mj,), (math.inf,))
    monkeypatch.setattr(energy, "powercap_counter", lambda folder: counter)
    monkeypatch.setattr(Tensors, "step", counted_step)
    rows = list(PARTS["energy"].rows(True))
    assert [(row["variant"], row["metric"]) for row in rows] == [
        (impl, metric) for impl in ("cpu", "torch") for metric in ("mj", "w")
    ]
    assert all(row["value"] == pytest.approx(15.0) for row in rows if row["metric"] == "mj")
    assert all(0 < row["value"] < math.inf for row in rows if row["metric"] == "w")


def test_rows_of_all_parts_are_kept_in_one_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    failure = gpu_first_minutes.row("tables", "", "failure", "stopped after 190 s")
    found = [(part, row) for part in QUICK for row in rows_of(part)] + [("tables", failure)]
    for part, row in found:
        keeper(part, dry=False)(row)
    with (tmp_path / "gpu_first_minutes.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [(row["part"], row["metric"]) for row in kept] == [(p, r["metric"]) for p, r in found]
    assert all(None not in row and None not in row.values() for row in kept)
    assert all(row["date"] and row["torch"] for row in kept)
    assert kept[-1]["value"] == "stopped after 190 s"


@pytest.mark.parametrize(
    "program, seconds, failure, kept",
    [
        ("print('{\"a\": 1}', flush=True); raise SystemExit(0)", 60, None, [{"a": 1}]),
        ("print('{\"a\": 1}', flush=True); raise KeyError('b')", 60, "KeyError: 'b'", [{"a": 1}]),
        ("import time; print('{\"a\": 1}', flush=True); time.sleep(60)", 1.0, "stopped after 1 s",
         [{"a": 1}]),
    ],
    ids=["finished", "failed", "too slow"],
)  # fmt: skip
def test_rows_are_kept_whatever_becomes_of_a_part(program, seconds, failure, kept) -> None:
    rows: list[Row] = []
    assert run_part([sys.executable, "-c", program], seconds, rows.append) == failure
    assert rows == kept


CHILD_OF_A_PART = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"pid": child.pid}), flush=True)
child.wait()
"""


def test_a_part_that_is_stopped_leaves_no_process_behind() -> None:
    rows: list[Row] = []
    failure = run_part([sys.executable, "-c", CHILD_OF_A_PART], 4.0, rows.append)
    assert failure == "stopped after 4 s"
    wait_for_end(rows[0]["pid"])


def test_a_part_that_is_interrupted_leaves_no_process_behind() -> None:
    rows: list[Row] = []

    def interrupt(row: Row) -> None:
        assert is_running(row["pid"])
        rows.append(row)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_part([sys.executable, "-c", CHILD_OF_A_PART], 600, interrupt)
    wait_for_end(rows[0]["pid"])


def test_a_part_that_fails_leaves_a_row_and_the_next_one_follows(monkeypatch, capsys) -> None:
    failures = iter(["out of memory", None])
    monkeypatch.setattr(gpu_first_minutes, "run_part", lambda *arguments: next(failures))
    monkeypatch.setattr(sys, "argv", ["x", "--dry", "--parts", "cells,energy"])
    gpu_first_minutes.main()
    assert capsys.readouterr().out.split("\n") == ["cells cells  failure out of memory", ""]
