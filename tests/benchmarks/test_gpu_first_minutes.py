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
from gpu_first_minutes import PARTS, Row, keeper, run_part

QUICK = ("correctness", "cells", "search_step", "long_search", "energy")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def rows_of(part: str) -> list[Row]:
    return list(PARTS[part].rows(True))


def test_all_parts_fit_into_twelve_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 12 * 60


@pytest.mark.parametrize("part", [*QUICK, pytest.param("tables", marks=pytest.mark.slow)])
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


def test_a_part_that_fails_leaves_a_row_and_the_next_one_follows(monkeypatch, capsys) -> None:
    failures = iter(["out of memory", None])
    monkeypatch.setattr(gpu_first_minutes, "run_part", lambda *arguments: next(failures))
    monkeypatch.setattr(sys, "argv", ["x", "--dry", "--parts", "cells,energy"])
    gpu_first_minutes.main()
    assert capsys.readouterr().out.split("\n") == ["cells cells  failure out of memory", ""]
