"""The report of a complete run: its contents, its order, its size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import WrittenRun, change, write_run, written_run

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.reporting.formatting import number
from hwnas.reporting.report import render_report
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.choices import Choice
from hwnas.spaces.nasbench201 import PRIMITIVES, NasBench201Options, NasBench201Space


def test_report_states_the_contents_of_the_files(each_run: WrittenRun) -> None:
    page = each_run.page()
    for words in (
        "Report of first run", "0.4377 ms", "30,842", "4,812,345",
        "accuracy_drop skipped \u2013 1.25 % accuracy lost by the export: at most the limit",
        "sqnr pass 121.4 dB 80.0 dB signal-to-quantisation-noise ratio of the outputs: at least",
        "the 10th percentile of the medians of 240 rounds (onnxruntime-cpu",
        "predicted to take 0.4377 ms; measured: 0.4213 ms (0.4129 to 0.4297)",
        "The measured latency is 3.75 % lower than the latency table predicts.",
        "Memory layout conversions inserted by the runtime 0 % 10 % 0 ms",
        "hwnas run config.toml --table latency_table.json --out AGAIN",
        "from 0.2137 ms to 1.374 ms; the budget is 0.5 ms",
        "1 0.44 ms 0.53 ms (0.5194 to 0.5406) fail 71 %",
        "2, chosen 0.44 ms 0.4213 ms (0.4129 to 0.4297) pass 69 %",
        "ankle boot 90 % 80 % 84.7 % 100", "120.6 KiB", "123 s", 'name = "', "2.13.0",
    ):  # fmt: skip
        assert words in page.text, words
    for choice, option in each_run.architecture:
        if option != "none":
            latency = re.escape(number(each_run.latencies[choice], 3))
            assert re.search(rf"{option} [\d.]+ % [\d.]+ % {latency} ms", page.text), choice


def test_every_drawing_has_a_label_of_its_own(each_run: WrittenRun) -> None:
    page = each_run.page()
    labels = [str(a["aria-label"]) for tag, a in page.elements if tag == "svg"]
    cells = 2 if each_run.space.name == "darts" else 1
    assert len(labels) == len(set(labels)) == 10 + cells + len(each_run.space.choices)
    assert page.drawings() >= {
        "Loss of the search", "Expected latency", "Entropy of the choices", "Training loss",
        "Learning curve", "Confusion matrix", "Accuracy with shared weights over latency",
    }  # fmt: skip


def test_sections_have_a_fixed_order(each_run: WrittenRun) -> None:
    assert [a["href"] for tag, a in each_run.page().elements if tag == "a"] == [
        "#main", "#how-to-use-this-model", "#results-on-the-test-samples",
        "#check-of-the-exported-model", "#architecture", "#where-the-time-goes",
        "#progress-of-the-search", "#training", "#how-to-reproduce-this-run",
    ]  # fmt: skip


def test_report_of_a_family_shows_the_pareto_front(each_run: WrittenRun) -> None:
    other = RunFolder(each_run.folder.path / "family/0.3ms")
    write_run(other, each_run.space)
    change(other.check, lambda check: check["accuracy"].update(onnx=0.9))
    page = each_run.page([other])
    assert "Pareto-optimal runs, fastest first: 2." in page.text
    assert "./front.html" in [a.get("href") for _, a in page.elements]


def test_equal_files_give_equal_bytes(run: WrittenRun) -> None:
    assert run.html() == run.html()


def test_long_history_and_many_classes_give_a_small_page(run: WrittenRun) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(10_000, 4))
    keys = ("loss", "validation_loss", "latency_ms", "entropy")
    lines: list[dict[str, Any]] = [
        {"event": "search", "step": step, **dict(zip(keys, row.tolist(), strict=True))}
        for step, row in enumerate(noise)
    ]
    for line in lines[::10]:
        line["probabilities"] = rng.dirichlet(np.ones(5), size=6).round(4).tolist()
    run.folder.history.write_text("\n".join(map(json.dumps, lines)))
    classes = [
        {"class": f"class {i:04d}", "precision": 0.5, "recall": 0.5, "f1": i / 1000, "n": 9}
        for i in reversed(range(1000))
    ]
    change(run.folder.metrics, lambda document: document.update(per_class=classes))
    page = run.page()
    assert "Each point is the mean of 42 records." in page.text
    assert "class 0000" in page.text
    assert "class 0039" in page.text
    assert "class 0040" not in page.text
    assert "40 of 1000 rows are shown." in page.text


def test_spaces_without_a_drawing_get_a_list_of_their_choices(tmp_path: Path) -> None:
    class Renamed(NasBench201Space):
        name = "renamed"

        def _choices(self) -> tuple[Choice, ...]:
            return tuple(Choice(f"layer {i}", PRIMITIVES) for i in range(6))

        def to_genotype(self, architecture: Architecture) -> str:
            return "renamed"

    sizes = {"height": 8, "width": 8, "cells": 1, "channels": 4}
    space = Renamed(NasBench201Options.model_validate(sizes))
    run = written_run(tmp_path, space, stages=("architecture",))
    page = run.page()
    for choice, option in run.architecture:
        assert f"{choice} {option}" in page.text
        assert option == "none" or f"{choice}: {option}" in page.text


@pytest.mark.parametrize(
    "name, content, cause",
    [
        ("check", '{"schema": 2}', "unknown schema"),
        ("metrics", '{"schema": 1', "not JSON"),
        ("environment", "[]", "not an object"),
        ("architecture", '{"schema": 1}', "missing name"),
    ],
)
def test_damaged_files_are_errors_that_name_the_file(
    run: WrittenRun, name: str, content: str, cause: str
) -> None:
    getattr(run.folder, name).write_text(content)
    with pytest.raises(InputError, match=cause) as raised:
        render_report(run.folder, run.space, {})
    assert f"{name}.json" in str(raised.value)


def test_architecture_of_another_space_is_an_error(run: WrittenRun) -> None:
    run.folder.architecture.write_text('{"schema": 1, "space": "darts", "choices": {}}')
    with pytest.raises(InputError, match="another space"):
        render_report(run.folder, run.space, {})


def test_folder_without_a_run_is_an_error(tmp_path: Path, run: WrittenRun) -> None:
    with pytest.raises(InputError, match=r"config\.toml"):
        render_report(RunFolder(tmp_path), run.space, {})
