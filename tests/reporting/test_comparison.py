"""The comparison of runs: key figures, what cannot be compared, Pareto front, search curves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.run_folders import STAGES, assert_sound, change, write_run
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.reporting.comparison import render_comparison
from hwnas.runs.run_folder import RunFolder

CONFIG = """seed = 3
[data]
name = "slice"
[space]
name = "nasbench201"
[latency]
runtime = "onnxruntime-cpu"
[search]
strategy = "darts"
steps = 600
"""


def write_runs(parent: Path, count: int, stages: tuple[str, ...] = STAGES) -> list[RunFolder]:
    """Runs of one configuration; each is faster and less accurate than the one before."""
    folders = []
    for i in range(count):
        folder = RunFolder(parent / f"run-{i + 1}")
        write_run(folder, tiny_space("nasbench201"), i, stages)
        folder.config.write_text(CONFIG)
        if "check" in stages:
            change(folder.check, _faster(i))
        folders.append(folder)
    return folders


def _faster(i: int) -> Callable[[dict[str, Any]], None]:
    def edit(check: dict[str, Any]) -> None:
        value_ms = 0.5 - 0.05 * i
        ends = {"value_ms": value_ms, "ci_low_ms": value_ms, "ci_high_ms": value_ms}
        check["measured"].update(ends)
        check["accuracy"]["onnx"] = 0.9 - 0.01 * i

    return edit


class TestComparison:
    def test_key_figures_of_all_runs_are_in_one_table(self, tmp_path: Path) -> None:
        folders = write_runs(tmp_path, 2)
        folders.append(RunFolder(tmp_path / "begun & co"))
        write_run(folders[2], tiny_space("darts"), stages=("environment",))
        folders[0].report.write_text("")
        source = render_comparison(folders, tmp_path)
        page = assert_sound(source)
        for words in (
            "2 of 3 runs passed their check.",
            "1 run-1 pass 0.5 ms 0.4377 ms 0.5 ms (0.5 to 0.5) 90 % accuracy darts 600 3 30,842",
            "2 run-2 pass 0.5 ms 0.4377 ms 0.45 ms (0.45 to 0.45) 89 % accuracy darts 600 3",
            "3 begun & co not checked not known not known not known not known",
        ):
            assert words in page.text, words
        links = [a["href"] for tag, a in page.elements if tag == "a"]
        assert "./run-1/report.html" in links
        assert "./run-2/report.html" not in links
        assert source == render_comparison(folders, tmp_path)

    def test_pareto_front_leaves_out_dominated_runs(self, tmp_path: Path) -> None:
        folders = write_runs(tmp_path, 4)

        def worse(check: dict[str, Any]) -> None:
            check["accuracy"]["onnx"] = 0.8

        change(folders[1].check, worse)
        page = assert_sound(render_comparison(folders, tmp_path))
        assert "is not the same" not in page.text
        # Latency falls from run to run, so the most accurate one is the slowest.
        assert (
            "Pareto-optimal runs, fastest first: 4, 3, 1. The knee of the front is run" in page.text
        )

    @pytest.mark.parametrize(
        "old, new, said, front",
        [
            ('name = "slice"', 'name = "cifar10"', "The data is not the same", False),
            ("onnxruntime-cpu", "torch-cpu", "The runtime is not the same", False),
            ("[search]", '[search]\nevaluator = "training"', "The evaluator is not", True),
        ],
    )
    def test_different_settings_limit_what_can_be_compared(
        self, tmp_path: Path, old: str, new: str, said: str, front: bool
    ) -> None:
        folders = write_runs(tmp_path, 2)
        assert said not in assert_sound(render_comparison(folders, tmp_path)).text
        folders[1].config.write_text(CONFIG.replace(old, new))
        page = assert_sound(render_comparison(folders, tmp_path))
        assert said in page.text
        assert ("Pareto-optimal runs" in page.text) == front
        assert ("cannot be compared, so there is no Pareto front" in page.text) != front

    def test_different_devices_and_spaces_limit_what_can_be_compared(self, tmp_path: Path) -> None:
        folders = write_runs(tmp_path, 2)
        change(folders[0].environment, lambda e: e.update(device="Xeon"))
        change(folders[1].environment, lambda e: e.update(device="<i>Pi"))
        change(folders[1].architecture, lambda a: a.update(space_options={"cells": 9}))
        page = assert_sound(render_comparison(folders, tmp_path))
        assert "The device is not the same" in page.text
        assert "The space is not the same" in page.text
        assert "cells 9" in page.text
        assert "1 Xeon" in page.text
        assert "2 <i>Pi" in page.text

    def test_curves_of_all_searches_share_one_chart(self, tmp_path: Path) -> None:
        source = render_comparison(write_runs(tmp_path, 10), tmp_path)
        page = assert_sound(source)
        assert "The first 8 of 10 searches are drawn." in page.text
        drawing = re.search(r'<svg[^>]*aria-label="Training loss of the.*?</svg>', source, re.S)
        assert drawing is not None
        assert drawing[0].count("<polyline") == 8
        assert re.search(r"<title>step 10: 1 run-1 [\d.]+, 2 run-2 [\d.]+", drawing[0])

    def test_runs_with_equal_folder_names_get_the_names_of_their_parents(
        self, tmp_path: Path
    ) -> None:
        folders = [*write_runs(tmp_path / "a", 1), *write_runs(tmp_path / "b", 1)]
        page = assert_sound(render_comparison(folders, tmp_path))
        assert "1 a/run-1" in page.text
        assert "2 b/run-1" in page.text

    def test_damaged_run_does_not_prevent_the_comparison(self, tmp_path: Path) -> None:
        good, bad = write_runs(tmp_path, 2, ("check",))
        bad.check.write_text("{")
        page = assert_sound(render_comparison([bad, good], tmp_path))
        assert "run-2/check.json: not JSON" in page.text
        assert "2 run-1 pass 0.5 ms" in page.text
        assert "1 of 2 runs passed their check." in page.text
        assert "There are fewer than two readable runs" in page.text

    def test_runs_without_results_say_so(self, tmp_path: Path) -> None:
        page = assert_sound(render_comparison(write_runs(tmp_path, 2, ()), tmp_path))
        assert "No run has been measured" in page.text
        assert "None of the runs has records of a search." in page.text

    def test_comparison_without_runs_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no runs"):
            render_comparison([], tmp_path)


TEXTS = st.text(max_size=20) | st.sampled_from(
    ["</script><script>alert(1)</script>", '"><img src=//evil.example>', "' onclick='x", "&lt;"]
)


@settings(max_examples=25, deadline=None)
@given(device=TEXTS, strategy=TEXTS, option=TEXTS, gate=TEXTS, value=st.floats() | TEXTS)
def test_hostile_text_is_shown_as_text(
    tmp_path_factory: pytest.TempPathFactory,
    device: str,
    strategy: str,
    option: str,
    gate: str,
    value: float | str,
) -> None:
    tmp_path = tmp_path_factory.mktemp("runs")
    folders = write_runs(tmp_path, 2)
    settings_ = {"data": {"name": value, option: 1}, "search": {"strategy": strategy}}
    lines = [f"[{name}]\n" + "\n".join(_toml(k, v) for k, v in table.items())
             for name, table in settings_.items()]  # fmt: skip
    folders[0].config.write_text("\n".join(lines), errors="replace")
    change(folders[0].environment, lambda e: e.update(device=device))
    change(folders[0].architecture, lambda a: a.update(space_options={option: value}))
    change(folders[0].check, lambda c: c.update(verdict=gate))
    source = render_comparison(folders, tmp_path)
    page = assert_sound(source)
    assert source.count("<script") == 1
    if device.isprintable() and device.strip():
        assert " ".join(device.split()) in page.text


def _toml(key: str, value: object) -> str:
    return f"{json.dumps(key)} = {json.dumps(value)}"
